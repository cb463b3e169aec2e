//! Processes that are ended together with everything they started.

use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// A process group, by the process id of its leader.
///
/// A process that leaves its group (`setsid`) is out of reach. The number of a group is given away again only when
/// its last process is gone, so a signal that comes late meets nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessGroup(Pid);

impl ProcessGroup {
    /// The group of this leader; `None` for the numbers that mean other things to the system than one group.
    pub(crate) fn of_leader(pid: u32) -> Option<Self> {
        i32::try_from(pid).ok().filter(|pid| *pid > 1).map(|pid| Self(Pid::from_raw(pid)))
    }

    /// Asks every process of the group to end.
    pub(crate) fn terminate(self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends every process of the group.
    pub(crate) fn kill(self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends a signal to every process of the group; to the leader if that was forked just now and has not yet made the
    /// group.
    pub(crate) fn signal_forked(self, signal: Signal) {
        if signal::killpg(self.0, signal) == Err(Errno::ESRCH) {
            // Nobody of ours is the only failure, as above.
            let _ = signal::kill(self.0, signal);
        }
    }

    /// Asks the leader alone to look up. Who does not listen for this signal ignores it.
    pub(crate) fn urge_leader(self) {
        // The only failure is that it is gone.
        let _ = signal::kill(self.0, Signal::SIGURG);
    }

    fn signal(self, signal: Signal) {
        // The only failure is that nobody is left, or nobody of ours.
        if let Err(error) = signal::killpg(self.0, signal) {
            tracing::trace!(group = self.0.as_raw(), %signal, %error, "nobody to signal");
        }
    }
}
