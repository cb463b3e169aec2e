//! Bytes as the configuration of an endpoint: refused with reasons, or a configuration that survives being written.

use funcx_daemons::config::EndpointConfig;

/// What a refusal may be long, for each problem and besides what it quotes of the file.
const MAX_PROBLEM_BYTES: usize = 4096;

/// Reads `data`, and if it is a configuration, writes and reads that again.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match EndpointConfig::parse(text) {
        Ok(read) => {
            let written = read.config.to_string();
            let again = EndpointConfig::parse(&written)
                .unwrap_or_else(|error| panic!("what was written cannot be read: {error}\n{written}"));
            assert_eq!(again.config, read.config, "as written:\n{written}");
            assert!(again.notes.is_empty(), "only keys that count are written: {:?}", again.notes);
        }
        Err(error) => {
            assert!(!error.problems.is_empty(), "a refusal has a reason");
            assert!(error.problems.is_sorted(), "in the order of the file");
            let lines = text.split(['\n', '\r']).count() as u64;
            for problem in &error.problems {
                assert!((0..=lines + 1).contains(&problem.line), "{problem} is not in the file");
                assert!(!problem.message.is_empty(), "{problem:?} says nothing");
                let bytes = problem.to_string().len();
                assert!(bytes <= data.len() + MAX_PROBLEM_BYTES, "a problem of {bytes} bytes");
            }
        }
    }
}
