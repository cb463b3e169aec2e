//! Bytes through the codec: refused, or a message that survives being encoded.

use bytes::Bytes;
use funcx_core::model::ErrorKind;
use funcx_net::codec::{decode, encode};

/// Decodes `data`, and if it is a message, encodes and decodes that again.
pub fn check(data: &[u8]) {
    match decode(Bytes::copy_from_slice(data)) {
        Ok(message) => {
            let frame = encode(message.clone()).expect("what was decoded can be encoded");
            let again = decode(frame.into_contiguous()).expect("what was encoded can be decoded");
            assert_eq!(again, message);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Protocol, "{error}"),
    }
}
