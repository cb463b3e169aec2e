//! The life of shell commands, which the zygote runs without a worker.
//!
//! A command has begun when the zygote says so, and that is always reported. It may have begun before: if the zygote is
//! lost between the request for a command and the news of it, nobody can know.

use funcx_core::model::{Failure, Hop, Now, Outcome, OutcomeKind, Tick, Timestamp};

use super::super::output::CommandOutput;
use super::super::slot::{Cause, Command, Exit, Running};
use super::life::{BOOT_TIME, MAX_BOOTING, REAP_TIME};
use super::settle::{LONGEST_PAUSE, PAUSE};
use super::{PoolOutput, PoolState, Signal, Zygote, key_of, pause};

impl PoolState {
    /// Starts the first waiting command if there is a slot for it. Where others came before, it leaves them the slots that
    /// they need.
    pub(super) fn start_next_command(&mut self, is_first: bool) -> bool {
        let may_start = self.zygote == Zygote::Ready
            && self.slots.starting() < MAX_BOOTING
            && self.ask_again <= self.now.tick
            && (is_first || self.spare() + self.slots.booting() > self.calls.waiting);
        let vacant = self.slots.next_vacant().filter(|_| self.spare() > 0).map(|(_, slot)| slot);
        let idle = self.slots.next_idle(self.turn).filter(|_| is_first);
        let Some(slot) = vacant.or(idle).filter(|_| may_start) else { return false };
        let Some(key) = self.take_next(true, |_, _| true) else { return false };
        let number = self.renew_tag(key);
        let entry = &mut self.entries[key as usize];
        entry.slot = Some(slot as u32);
        self.outputs.push_back(PoolOutput::RunCommand { number, task: entry.task.clone() });
        let command = Command { key, asked: self.now.tick, running: None, ending: None, ended: None };
        self.slots[slot].command = Some(command);
        self.file(slot);
        true
    }

    /// The command with this number has a process.
    pub(in super::super) fn handle_command_started(
        &mut self,
        number: u64,
        pid: u32,
        at: Timestamp,
        now: Now,
    ) {
        self.touch(now);
        (self.refused, self.zygotes_lost) = (0, 0);
        let Some((slot, command)) = self.command_mut(number) else {
            // It was given up before its process was known.
            return self.outputs.push_back(PoolOutput::Signal { pid, signal: Signal::Kill });
        };
        command.running = Some(Running { pid, since: Now { wall: at, ..now } });
        let ending = command.ending.take();
        self.started.push((self.entries[key_of(number)].task.attempt_id(), at));
        if let Some(ending) = ending {
            self.stop_command(slot, ending.cause);
        }
    }

    /// The command with this number is gone.
    pub(in super::super) fn handle_command_ended(
        &mut self,
        number: u64,
        exit: Exit,
        at: Timestamp,
        now: Now,
    ) {
        self.touch(now);
        let Some((slot, command)) = self.command_mut(number) else {
            return self.outputs.push_back(PoolOutput::DropOutput(number));
        };
        if command.running.is_none() {
            return self.handle_command_refused(slot);
        }
        command.ended = Some(at);
        let is_stopped = command.ending.as_ref().is_some_and(|ending| match ending.cause {
            // It ended by itself before it could be killed.
            Cause::TimedOut(_) | Cause::DeadlinePassed(_) => exit.status.is_none(),
            // Other codes may be what it makes of the signal.
            Cause::Stopped => exit.status != Some(0),
            _ => true,
        });
        if is_stopped {
            return self.settle_command(slot);
        }
        let template = self.entries[key_of(number)].task.spec.function.body().code.clone();
        self.outputs.push_back(PoolOutput::ReadOutput { number, template, exit });
    }

    /// The system has no process for a command. It has not begun, and waits.
    fn handle_command_refused(&mut self, slot: usize) {
        self.refused = self.refused.saturating_add(1);
        self.ask_again = self.now.tick + pause(Some(self.refused - 1), PAUSE, LONGEST_PAUSE);
        tracing::warn!(in_a_row = self.refused, "no process for a command");
        let Some(Command { key, ending, .. }) = self.slots[slot].command.take() else { return };
        // Another request has another number.
        self.outputs.push_back(PoolOutput::DropOutput(self.entries[key as usize].tag));
        if ending.is_some_and(|ending| self.settle_stopped(key, &ending.cause)) {
            return;
        }
        if self.draining {
            return self.give_back(key);
        }
        self.entries[key as usize].slot = None;
        self.enqueue(key, true);
    }

    /// What the command with this number wrote has been read.
    pub(in super::super) fn handle_command_read(&mut self, number: u64, output: CommandOutput, now: Now) {
        self.touch(now);
        let Some((slot, command)) = self.command_mut(number) else { return };
        let (key, running, ended) = (command.key, command.running, command.ended);
        self.slots[slot].command = None;
        if self.settle_stopped(key, &Cause::Died) {
            return;
        }
        let task = &self.entries[key as usize].task;
        let mut outcome = match output {
            CommandOutput::Returned(payload) => Outcome::returned(task, payload),
            CommandOutput::Raised(payload) => {
                Outcome { kind: OutcomeKind::Raised, payload, ..Outcome::returned(task, "") }
            }
            CommandOutput::Lost(reason) => {
                return self.fail(key, OutcomeKind::Lost, &Failure::new("WorkerLost", reason));
            }
        };
        outcome.worker = self.details.clone();
        if let (Some(running), Some(ended)) = (running, ended) {
            outcome.stamps.set(Hop::Started, running.since.wall);
            outcome.stamps.set(Hop::Ended, ended);
            self.mean.record(ended.as_nanos().saturating_sub(running.since.wall.as_nanos()));
        }
        self.finish(key, outcome);
    }

    /// When the command of a slot has to be looked after.
    pub(super) fn command_due(&self, slot: usize) -> Option<Tick> {
        let command = self.slots[slot].command.as_ref().filter(|command| command.ended.is_none())?;
        if let Some(ending) = &command.ending {
            return ending.kill_at.or(ending.settle_at);
        }
        let task = &self.entries[command.key as usize].task;
        let end = match command.running {
            Some(running) => task.walltime().map(|walltime| running.since.tick + walltime),
            None => Some(command.asked + BOOT_TIME),
        };
        let due = task.end_by.min(end.unwrap_or(Tick::NEVER));
        (due != Tick::NEVER).then_some(due)
    }

    /// Its time has come.
    pub(super) fn advance_command(&mut self, slot: usize) {
        let Some(command) = &mut self.slots[slot].command else { return };
        let entry = &self.entries[command.key as usize];
        let cause = match (&mut command.ending, command.running) {
            (Some(ending), running) if ending.kill_at.is_some() => {
                (ending.kill_at, ending.settle_at) = (None, Some(self.now.tick + REAP_TIME));
                let kill = |Running { pid, .. }| PoolOutput::Signal { pid, signal: Signal::Kill };
                return self.outputs.extend(running.map(kill));
            }
            (Some(_), _) => return self.settle_command(slot),
            _ if entry.task.end_by <= self.now.tick => Cause::DeadlinePassed(entry.tag),
            (None, Some(_)) => Cause::TimedOut(entry.tag),
            (None, None) => Cause::Unborn(format!("no news of the command for {BOOT_TIME:?}")),
        };
        self.stop_command(slot, cause);
    }

    /// Ends the command of a slot, if there is one that runs: gently if it was cancelled or the pool is stopped, else at
    /// once. One without a process ends when it has got one.
    pub(super) fn stop_command(&mut self, slot: usize, cause: Cause) {
        let (signal, ending) = self.ending(cause);
        let Some(command) = &mut self.slots[slot].command else { return };
        if command.ended.is_none() && command.ending.is_none() {
            command.ending = Some(ending);
            self.outputs
                .extend(command.running.map(|Running { pid, .. }| PoolOutput::Signal { pid, signal }));
        }
    }

    /// The zygote is gone, and the command of a slot with it, unless that has already ended.
    pub(super) fn lose_command(&mut self, slot: usize) {
        let Some(command) = &self.slots[slot].command else { return };
        if command.ended.is_none() {
            let kill = |Running { pid, .. }| PoolOutput::Signal { pid, signal: Signal::Kill };
            self.outputs.extend(command.running.map(kill));
            self.settle_command(slot);
        }
    }

    /// Ends the task of a command that did not end by itself.
    fn settle_command(&mut self, slot: usize) {
        let Some(Command { key, running, ending, .. }) = self.slots[slot].command.take() else { return };
        let entry = &self.entries[key as usize];
        self.outputs.push_back(PoolOutput::DropOutput(entry.tag));
        let is_known = running.is_some() || entry.at_most_once();
        let cause = ending.map_or(Cause::ZygoteLost, |ending| ending.cause);
        if self.settle_stopped(key, &cause) {
            return;
        }
        let mut failure = match (&self.stopped, cause) {
            (Some(stopped), _) => stopped.clone(),
            (None, Cause::Unborn(reason)) => {
                self.replace_zygote(&reason);
                Failure::new("WorkerLost", reason)
            }
            (None, _) => {
                Failure::new("WorkerLost", "the process that runs commands was lost, and this one with it")
            }
        };
        if !is_known {
            Failure::LEASE_LOST.clone_into(&mut failure.code);
        }
        self.fail(key, OutcomeKind::Lost, &failure);
    }

    /// The command with this number, and its slot.
    fn command_mut(&mut self, number: u64) -> Option<(usize, &mut Command)> {
        let entry = self.entries.get(key_of(number)).filter(|entry| entry.tag == number)?;
        let slot = entry.slot? as usize;
        self.slots[slot].command.as_mut().map(|command| (slot, command))
    }
}
