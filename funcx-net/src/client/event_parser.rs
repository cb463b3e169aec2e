//! Text of a server-sent event stream, cut into events.

use bytes::{Bytes, BytesMut};
use funcx_core::model::limit;
use funcx_core::{Error, ErrorKind, Result};

/// Longest event that is kept: one outcome of the largest size, in JSON.
const MAX_EVENT_BYTES: usize = limit::MAX_FRAME_BYTES;

/// One event. Fields that the stream left out are empty, as in the standard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: Bytes,
}

/// Takes the stream in pieces of any size and gives whole events.
///
/// **Bounds.** At most one event and one piece are kept.
///
/// **Source.** WHATWG HTML, "Server-sent events", sections 9.2.5 and 9.2.6. Lines end with LF or CR LF; a lone CR, which the
/// standard allows as well and our services never write, is not a line end here.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    received: BytesMut,
    /// Bytes of `received` that are known to hold no line end.
    scanned: usize,
    name: String,
    id: String,
    data: Option<BytesMut>,
    /// Id of the last event that came whole.
    last_id: String,
}

impl EventParser {
    /// Where the stream stands: the id of the last event that came whole, empty if none had one.
    pub(super) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// Adds the next piece of the stream.
    pub(super) fn handle_bytes(&mut self, piece: &[u8]) {
        self.received.extend_from_slice(piece);
    }

    /// The next whole event, if there is one.
    ///
    /// # Errors
    /// `Protocol` if an event is longer than the bound.
    pub(super) fn poll_event(&mut self) -> Result<Option<Event>> {
        while let Some(line) = self.next_line() {
            if line.is_empty() {
                if let Some(event) = self.finish() {
                    return Ok(Some(event));
                }
                continue;
            }
            self.on_line(&line);
            self.check_size()?;
        }
        self.check_size()?;
        Ok(None)
    }

    fn next_line(&mut self) -> Option<BytesMut> {
        let Some(end) = self.received[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.received.len();
            return None;
        };
        let mut line = self.received.split_to(self.scanned + end + 1);
        self.scanned = 0;
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Some(line)
    }

    fn on_line(&mut self, line: &[u8]) {
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = String::from_utf8_lossy(value).into_owned(),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.extend_from_slice(b"\n");
                    data.extend_from_slice(value);
                }
                None => self.data = Some(BytesMut::from(value)),
            },
            // Comments keep the connection alive; other fields are for later versions.
            _ => {}
        }
    }

    /// An event without data is no event, as the standard has it, but its id counts.
    fn finish(&mut self) -> Option<Event> {
        self.last_id.clone_from(&self.id);
        let name = std::mem::take(&mut self.name);
        let data = self.data.take()?;
        Some(Event { name, data: data.freeze() })
    }

    fn check_size(&self) -> Result<()> {
        let kept = self.received.len() + self.data.as_ref().map_or(0, BytesMut::len);
        if kept <= MAX_EVENT_BYTES {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Protocol, "read events", "an event is longer than MAX_FRAME_BYTES"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and data of each event, and the id after it.
    fn events(pieces: &[&str]) -> Vec<(String, String, String)> {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.handle_bytes(piece.as_bytes());
            while let Some(event) = parser.poll_event().unwrap() {
                let data = String::from_utf8(event.data.to_vec()).unwrap();
                events.push((event.name, data, parser.last_id().to_owned()));
            }
        }
        events
    }

    fn event(name: &str, data: &str, id: &str) -> (String, String, String) {
        (name.into(), data.into(), id.into())
    }

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let stream = ": hello\n\nevent: outcome\nid: 7\ndata: {\"a\": 1,\ndata:\"b\"}\n\r\nretry: 3\n\nid: 8\r\ndata\r\n\r\ndata: rest";
        let expected = vec![event("outcome", "{\"a\": 1,\n\"b\"}", "7"), event("", "", "8")];
        assert_eq!(events(&[stream]), expected);
        for size in 1..20 {
            let pieces: Vec<_> =
                stream.as_bytes().chunks(size).map(|piece| str::from_utf8(piece).unwrap()).collect();
            assert_eq!(events(&pieces), expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_id_counts_with_its_whole_event_and_for_those_after_it() {
        assert_eq!(
            events(&["id: 5\n\n", "data: x\n\n", "data: y\n\n"]),
            [event("", "x", "5"), event("", "y", "5")]
        );
        let mut parser = EventParser::default();
        parser.handle_bytes(b"id: 5\ndata: x\n\nid: 6\ndata: half");
        while parser.poll_event().unwrap().is_some() {}
        assert_eq!(parser.last_id(), "5");
    }

    #[test]
    fn an_event_without_end_is_refused_before_it_fills_the_memory() {
        let mut parser = EventParser::default();
        let line = format!("data: {}\n", "x".repeat(1 << 20)).into_bytes();
        let refused = (0..=MAX_EVENT_BYTES >> 20).find_map(|_| {
            parser.handle_bytes(&line);
            parser.poll_event().err()
        });
        assert_eq!(refused.unwrap().kind(), ErrorKind::Protocol);
    }
}
