//! Doubly linked lists through the entries of a slab.
//!
//! An entry is in at most one list at a time, which is how a task is in one place only. Every operation takes
//! constant time, wherever in the list the entry is.

use slab::Slab;

const END: u32 = u32::MAX;

/// The two neighbours of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbours {
    previous: u32,
    next: u32,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { previous: END, next: END }
    }
}

/// An entry that can be in a list.
pub(super) trait Linked {
    fn neighbours(&mut self) -> &mut Neighbours;
    fn next(&self) -> u32;
}

impl Neighbours {
    pub(super) const fn next(self) -> u32 {
        self.next
    }
}

/// Head, tail and length of one list.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    first: u32,
    last: u32,
    length: usize,
}

impl Default for List {
    fn default() -> Self {
        Self { first: END, last: END, length: 0 }
    }
}

impl List {
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) fn first(&self) -> Option<usize> {
        (self.first != END).then_some(self.first as usize)
    }

    pub(super) fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, key: usize) {
        let index = key as u32;
        *slab[key].neighbours() = Neighbours { previous: self.last, next: END };
        match self.last {
            END => self.first = index,
            last => slab[last as usize].neighbours().next = index,
        }
        self.last = index;
        self.length += 1;
    }

    pub(super) fn push_front<T: Linked>(&mut self, slab: &mut Slab<T>, key: usize) {
        let index = key as u32;
        *slab[key].neighbours() = Neighbours { previous: END, next: self.first };
        match self.first {
            END => self.last = index,
            first => slab[first as usize].neighbours().previous = index,
        }
        self.first = index;
        self.length += 1;
    }

    pub(super) fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, key: usize) {
        let Neighbours { previous, next } = std::mem::take(slab[key].neighbours());
        match previous {
            END => self.first = next,
            previous => slab[previous as usize].neighbours().next = next,
        }
        match next {
            END => self.last = previous,
            next => slab[next as usize].neighbours().previous = previous,
        }
        self.length -= 1;
    }

    /// Keys from first to last.
    pub(super) fn iter<'a, T: Linked>(&self, slab: &'a Slab<T>) -> impl Iterator<Item = usize> + use<'a, T> {
        let mut at = self.first;
        std::iter::from_fn(move || {
            (at != END).then(|| {
                let key = at as usize;
                at = slab[key].next();
                key
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(Neighbours);

    impl Linked for Entry {
        fn neighbours(&mut self) -> &mut Neighbours {
            &mut self.0
        }

        fn next(&self) -> u32 {
            self.0.next()
        }
    }

    fn check(list: &List, slab: &Slab<Entry>, expected: &[usize]) {
        assert_eq!(list.iter(slab).collect::<Vec<_>>(), expected);
        assert_eq!((list.len(), list.first()), (expected.len(), expected.first().copied()));
    }

    #[test]
    fn entries_leave_from_front_middle_and_end() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..4).map(|_| slab.insert(Entry(Neighbours::default()))).collect();
        let mut list = List::default();
        keys[..3].iter().for_each(|key| list.push_back(&mut slab, *key));
        list.push_front(&mut slab, keys[3]);
        check(&list, &slab, &[3, 0, 1, 2]);
        list.remove(&mut slab, 0);
        check(&list, &slab, &[3, 1, 2]);
        list.remove(&mut slab, 3);
        list.remove(&mut slab, 2);
        check(&list, &slab, &[1]);
        list.remove(&mut slab, 1);
        check(&list, &slab, &[]);
        list.push_front(&mut slab, 2);
        check(&list, &slab, &[2]);
    }
}
