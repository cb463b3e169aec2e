//! Every fixed bound of the fabric, in one table.
//!
//! A length that comes from outside is checked against its limit before anything is allocated. Limits that an
//! operator can change are defaults here and fields of that daemon's configuration.

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr, $unit:literal;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*

        /// Name, value and unit of each limit, for `funcx limits` and the documentation.
        pub const TABLE: &[(&str, u64, &str)] = &[$((stringify!($name), $name as u64, $unit)),*];
    };
}

limits! {
    /// Longest frame on a link. Twice the payload limit, so that a largest payload and its head always fit.
    MAX_FRAME_BYTES: usize = 128 << 20, "bytes";
    /// Longest header of a frame: heads of the tasks or outcomes of a batch.
    MAX_FRAME_HEADER_BYTES: usize = 16 << 20, "bytes";
    /// Largest argument or result of one task (default).
    MAX_PAYLOAD_BYTES: usize = 64 << 20, "bytes";
    /// Largest HTTP request body (default).
    MAX_BODY_BYTES: usize = 96 << 20, "bytes";
    /// Largest body of a function.
    MAX_FUNCTION_BYTES: usize = 16 << 20, "bytes";
    /// Captured standard output, and standard error, kept of each task.
    MAX_OUTPUT_BYTES: usize = 64 << 10, "bytes";
    /// Tasks or outcomes in one frame.
    MAX_BATCH_TASKS: usize = 4096, "tasks";
    /// A batch is cut into frames of about this size, so that one frame does not hold up a link.
    TARGET_BATCH_BYTES: usize = 4 << 20, "bytes";
    /// Calls in one chunk of a map.
    MAX_CHUNK_CALLS: usize = 65_536, "calls";
    /// Tasks in one submission.
    MAX_SUBMIT_TASKS: usize = 100_000, "tasks";
    /// Tasks a dispatcher holds in one lane (default).
    MAX_LANE_TASKS: usize = 1_000_000, "tasks";
    /// Payload bytes a dispatcher holds in one lane (default).
    MAX_LANE_BYTES: usize = 1 << 30, "bytes";
    /// Unfinished tasks of one endpoint that the service accepts (default).
    MAX_ENDPOINT_TASKS: usize = 10_000_000, "tasks";
    /// Slots plus prefetch that one peer may advertise.
    MAX_PEER_CREDITS: u32 = 1 << 20, "tasks";
    /// Tasks that an operator may let wait at each manager besides those that run.
    MAX_PREFETCH: u32 = 1 << 16, "tasks";
    /// Environments of an endpoint besides the default one.
    MAX_ENVIRONMENTS: usize = 64, "environments";
    /// Bytes of function bodies that one session keeps.
    MAX_SESSION_FUNCTION_BYTES: usize = 256 << 20, "bytes";
    /// Functions that one session keeps.
    MAX_SESSION_FUNCTIONS: usize = 4096, "functions";
    /// Names, labels, credentials and other short texts on a link.
    MAX_TEXT_BYTES: usize = 4096, "bytes";
    /// Texts of an event of a task.
    MAX_EVENT_TEXT_BYTES: usize = 512, "bytes";
    /// Attempts at a task when infrastructure is lost (default).
    DEFAULT_MAX_ATTEMPTS: u32 = 3, "attempts";
    /// Lost attempts that nobody said had begun, until one more counts: the task may be what kills its peers.
    MAX_GRANTED: u32 = 20, "attempts";
    /// Attempts that a submission may ask for.
    MAX_MAX_ATTEMPTS: u32 = 1000, "attempts";
    /// Time between heartbeats on a link (default).
    HEARTBEAT_MILLIS: u64 = 2000, "ms";
    /// Silent heartbeats after which a peer is lost.
    HEARTBEATS_MISSED: u32 = 3, "heartbeats";
    /// Time a peer whose connection broke may take to come back before its leases are lost (default).
    LEASE_GRACE_MILLIS: u64 = 30_000, "ms";
    /// Time from connection to a complete handshake.
    HANDSHAKE_MILLIS: u64 = 10_000, "ms";
    /// Tasks shown on one page of a listing.
    MAX_PAGE_TASKS: usize = 1000, "tasks";
    /// Events kept of one task.
    MAX_TASK_EVENTS: usize = 64, "events";
    /// Longest walltime, time to live and deadline of a task.
    MAX_TASK_SECONDS: u64 = 10 * 366 * 86_400, "s";
    /// Values that a node remembers for equal calls (default).
    DEFAULT_MEMO_BYTES: usize = 64 << 20, "bytes";
    /// Functions that one worker process keeps loaded.
    MAX_WORKER_FUNCTIONS: usize = 1024, "functions";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_largest_payload_fits_into_a_frame() {
        const { assert!(MAX_PAYLOAD_BYTES + MAX_FRAME_HEADER_BYTES + 2 * MAX_OUTPUT_BYTES < MAX_FRAME_BYTES) };
        const { assert!(TARGET_BATCH_BYTES < MAX_FRAME_BYTES) };
    }

    #[test]
    fn the_table_names_each_limit_once() {
        let mut names: Vec<_> = TABLE.iter().map(|(name, ..)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
