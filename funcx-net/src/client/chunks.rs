//! How the calls of a map are cut into tasks, and these into requests.

use funcx_core::model::limit;
use funcx_core::{Error, ErrorKind, Result};

use super::Arguments;

/// How many calls go into one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chunk {
    /// As many as suit the number of calls and the workers of the endpoint: at least eight tasks for each worker, so that
    /// all are busy to the end though some calls take longer; at most 4096 calls in a task, beyond which nothing is gained;
    /// and no more than a MiB of arguments.
    #[default]
    Auto,
    /// This many, from 1 to [`MAX_CHUNK_CALLS`](limit::MAX_CHUNK_CALLS); the last task may have fewer.
    Fixed(usize),
}

/// Tasks for each worker that [`Chunk::Auto`] makes if there are enough calls.
const TASKS_PER_WORKER: usize = 8;
/// Most calls in a task of [`Chunk::Auto`]: what a task costs besides its calls is no more than a hundredth of them then,
/// however short they are.
const MAX_AUTO_CALLS: usize = 4096;
/// Bytes of arguments after which [`Chunk::Auto`] begins a new task: reading these takes far longer than what a task costs.
const MAX_AUTO_BYTES: usize = 1 << 20;
/// Workers that [`Chunk::Auto`] reckons with while the endpoint has none: it may start some.
const UNKNOWN_WORKERS: usize = 64;
/// Argument bytes after which a request takes no more chunks.
const TARGET_REQUEST_BYTES: usize = limit::TARGET_BATCH_BYTES;

/// Where to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    calls: usize,
    /// Whether a task may have fewer calls than it could, to bound its bytes.
    bounds_bytes: bool,
}

impl Cut {
    /// # Errors
    /// `InvalidInput` if the chunk is none.
    pub(super) fn new(chunk: Chunk, calls: usize, workers: u32) -> Result<Self> {
        match chunk {
            Chunk::Auto => {
                let workers = if workers == 0 { UNKNOWN_WORKERS } else { workers as usize };
                let calls = calls.div_ceil(workers * TASKS_PER_WORKER).clamp(1, MAX_AUTO_CALLS);
                Ok(Self { calls, bounds_bytes: true })
            }
            Chunk::Fixed(calls @ 1..=limit::MAX_CHUNK_CALLS) => Ok(Self { calls, bounds_bytes: false }),
            Chunk::Fixed(calls) => {
                let most = limit::MAX_CHUNK_CALLS;
                let message = format!("a chunk must have from 1 to {most} calls (MAX_CHUNK_CALLS)");
                Err(Error::new(ErrorKind::InvalidInput, "map function", message).with_context("chunk", calls))
            }
        }
    }

    fn is_full(self, calls: usize, bytes: usize, next_bytes: usize) -> bool {
        calls >= self.calls || (self.bounds_bytes && calls > 0 && bytes + next_bytes > MAX_AUTO_BYTES)
    }
}

/// Calls that one request makes tasks of: in each part tasks of so many calls, of which the last may have fewer.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) parts: Vec<Part>,
    /// Calls of each task, in order.
    pub(super) tasks: Vec<usize>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) chunk: usize,
    pub(super) arguments: Vec<Arguments>,
}

/// Takes the arguments of the next request, of which there are none when all are taken.
///
/// # Errors
/// `LimitExceeded` if those of one task are together longer than a task may have them.
pub(super) fn next_request(
    arguments: &mut std::iter::Peekable<std::vec::IntoIter<Arguments>>,
    cut: Cut,
) -> Result<Request> {
    let mut request = Request::default();
    while arguments.peek().is_some()
        && request.bytes < TARGET_REQUEST_BYTES
        && request.tasks.len() < limit::MAX_SUBMIT_TASKS
    {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(next) = arguments.next_if(|next| !cut.is_full(chunk.len(), bytes, next.size_bytes())) {
            bytes += next.size_bytes() + 1;
            chunk.push(next);
        }
        if bytes + 1 > limit::MAX_PAYLOAD_BYTES {
            let message =
                "the arguments of a chunk are longer than MAX_PAYLOAD_BYTES together; use smaller chunks";
            return Err(Error::new(ErrorKind::LimitExceeded, "map function", message)
                .with_context("calls", chunk.len())
                .with_context("bytes", bytes));
        }
        request.push(chunk, bytes);
    }
    Ok(request)
}

impl Request {
    fn push(&mut self, chunk: Vec<Arguments>, bytes: usize) {
        self.bytes += bytes;
        self.tasks.push(chunk.len());
        match self.parts.last_mut() {
            // Nothing can follow a task with fewer calls than the others of its part.
            Some(part) if part.chunk >= chunk.len() && part.arguments.len() % part.chunk == 0 => {
                part.arguments.extend(chunk);
            }
            _ => self.parts.push(Part { chunk: chunk.len(), arguments: chunk }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of tasks with so many calls.
    fn tasks(arguments: Vec<Arguments>, cut: Cut) -> Vec<Vec<usize>> {
        let count = arguments.len();
        let mut arguments = arguments.into_iter().peekable();
        let mut requests = Vec::new();
        loop {
            let request = next_request(&mut arguments, cut).unwrap();
            if request.tasks.is_empty() {
                break;
            }
            // What the service will make of it.
            let made: Vec<_> = request
                .parts
                .iter()
                .flat_map(|part| part.arguments.chunks(part.chunk).map(<[_]>::len))
                .collect();
            assert_eq!(made, request.tasks);
            requests.push(request.tasks);
        }
        assert_eq!(requests.iter().flatten().sum::<usize>(), count);
        requests
    }

    fn arguments(sizes: &[usize]) -> Vec<Arguments> {
        sizes.iter().map(|size| Arguments::value(&"x".repeat(size - 2)).unwrap()).collect()
    }

    #[test]
    fn chunks_suit_the_calls_and_the_workers() {
        for (calls, workers, expected) in [
            (1, 2, 1),
            (16, 2, 1),
            (17, 2, 2),
            (1000, 2, 63),
            (1000, 0, 2),
            (1_000_000, 2, 4096),
            (1_000_000, 1000, 125),
            (0, 1, 1),
        ] {
            let cut = Cut::new(Chunk::Auto, calls, workers).unwrap();
            assert_eq!(cut.calls, expected, "{calls} calls, {workers} workers");
        }
        for calls in [0, limit::MAX_CHUNK_CALLS + 1] {
            let error = Cut::new(Chunk::Fixed(calls), 1, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("1 to 65536"), "{error}");
        }
    }

    #[test]
    fn requests_hold_tasks_of_the_wanted_size() {
        let fixed = |calls| Cut::new(Chunk::Fixed(calls), 0, 0).unwrap();
        assert_eq!(tasks(arguments(&[10; 10]), fixed(4)), [[4, 4, 2]]);
        assert_eq!(tasks(arguments(&[10; 2]), fixed(4)), [[2]]);
        assert!(tasks(Vec::new(), fixed(4)).is_empty());
        let many = tasks(arguments(&[3; limit::MAX_SUBMIT_TASKS + 2]), fixed(1));
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [limit::MAX_SUBMIT_TASKS, 2]);
        let half = TARGET_REQUEST_BYTES / 2;
        assert_eq!(tasks(arguments(&[half, half, half, 10]), fixed(2)), [vec![2], vec![2]]);
    }

    #[test]
    fn large_arguments_make_small_chunks_unless_the_size_is_fixed() {
        let auto = Cut { calls: 100, bounds_bytes: true };
        let third = MAX_AUTO_BYTES / 3;
        let sizes = [third, third, 10, third, 5 * third, 10, 10];
        assert_eq!(tasks(arguments(&sizes), auto), [[3, 1, 1, 2]]);
        let long = arguments(&[limit::MAX_PAYLOAD_BYTES / 2; 3]);
        assert_eq!(tasks(long.clone(), auto), [[1], [1], [1]]);
        let fixed = Cut::new(Chunk::Fixed(2), 0, 0).unwrap();
        let error = next_request(&mut long.into_iter().peekable(), fixed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.to_string().contains("smaller chunks"), "{error}");
    }
}
