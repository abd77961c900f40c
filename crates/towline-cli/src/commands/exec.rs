//! `--exec`: a command whose standard input takes a connection's messages, and whose standard output gives others.

use std::io::{BufReader, BufWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use towline::{Connection, Ended, Message, RecvError, SendError};

use crate::failure::{Failure, Outcome};
use crate::framing::Framing;
use crate::interrupt::{Interrupt, block_on};

/// How long a command may go on when its input has ended, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What a connection is closed with when the command has failed; WebSocket has it as "internal error".
const CODE_FAILED: u64 = 1011;

/// What to run, and how.
pub(super) struct Exec<'a> {
    pub(super) command: &'a str,
    pub(super) framing: Framing,
    /// What the command says is text, where the wire tells text from binary.
    pub(super) text: bool,
}

impl Exec<'_> {
    /// Joins the command with the connection until one of them ends, and then ends the other. `seen` is told of each message that came.
    pub(super) fn run(
        &self,
        connection: &Connection,
        interrupt: &Interrupt,
        mut seen: impl FnMut(&Message),
    ) -> Outcome<(Ended, ExitStatus)> {
        let mut child = self.start(connection)?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = pipes else {
            return Err(Failure::failed("the command has no standard input or output"));
        };
        let (framing, text) = (self.framing, self.text);
        let sender = connection.clone();
        let closer = connection.clone();
        let process = Arc::new(Process::new(&child));
        let own = Arc::clone(&process);
        let forwarded = started("exec-output", move || {
            // A command that nobody can listen to any more is ended.
            forward(output, &sender, framing, text).inspect_err(|_| own.kill())
        })?;
        let own = Arc::clone(&process);
        let ended = started("exec-wait", move || own.watch(child, &forwarded, &closer))?;

        let fed = feed(connection, input, self.framing, interrupt, &mut seen);
        // Its input has ended, with `input`: so will it.
        let outcome = match ended.recv_timeout(GRACE) {
            Ok(outcome) => outcome,
            Err(_) => {
                process.kill();
                ended.recv().unwrap_or_else(|_| Err(Failure::failed("the command was lost")))
            }
        };
        let ended = fed?;
        Ok((ended, outcome?))
    }

    fn start(&self, connection: &Connection) -> Outcome<Child> {
        let peer = connection.peer_address().map(|peer| peer.to_string()).unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", self.command]).env("TOWLINE_PEER", peer);
        // A group of its own: what it starts ends with it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        command.spawn().map_err(|error| Failure::Failed(format!("cannot start sh: {error}")))
    }
}

/// What a command's end means, for whoever asked for it alone.
pub(super) fn check(status: ExitStatus) -> Outcome {
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Failed(format!("the command ended with {status}"))),
    }
}

/// A thread that may be left behind; what it returns comes through the channel.
fn started<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Outcome<Receiver<T>> {
    let (tell, told) = mpsc::channel();
    let run = move || drop(tell.send(work()));
    match std::thread::Builder::new().name(name.into()).spawn(run) {
        Ok(_) => Ok(told),
        Err(error) => Err(Failure::Failed(format!("cannot start a thread: {error}"))),
    }
}

/// Passes on what the command writes.
fn forward(output: ChildStdout, connection: &Connection, framing: Framing, text: bool) -> Outcome {
    let mut from = BufReader::new(output);
    let limit = connection.capabilities().max_message;
    loop {
        let data = framing.read(&mut from, limit).map_err(|error| {
            Failure::Failed(format!("cannot read what the command writes: {error}"))
        })?;
        let Some(data) = data else { return Ok(()) };
        let message = Message { is_text: text, ..Message::new(data) };
        match block_on(connection.send(message)) {
            Ok(_) => {}
            // A peer that has gone does not want it.
            Err(SendError::Ended(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Passes on what comes, until the connection or a signal ends it. Returns with the command's input closed.
fn feed(
    connection: &Connection,
    input: ChildStdin,
    framing: Framing,
    interrupt: &Interrupt,
    seen: &mut impl FnMut(&Message),
) -> Outcome<Ended> {
    // `None`: the command reads no more.
    let mut input = Some(BufWriter::new(input));
    loop {
        let message = match connection.try_recv() {
            Ok(Some(message)) => message,
            Ok(None) => {
                // Before waiting, the command is shown what there is.
                if input.as_mut().is_some_and(|input| input.flush().is_err()) {
                    input = None;
                }
                match interrupt.wait_for(connection.recv())? {
                    Ok(message) => message,
                    Err(RecvError::Ended(ended)) => return Ok(ended),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(RecvError::Ended(ended)) => return Ok(ended),
            Err(error) => return Err(error.into()),
        };
        seen(&message);
        if input.as_mut().is_some_and(|input| framing.write(input, &message.data).is_err()) {
            input = None;
        }
    }
}

/// A running command, which can be killed as long as it has not been waited for.
struct Process {
    pid: Pid,
    /// Its number may belong to another by now.
    gone: Mutex<bool>,
}

impl Process {
    fn new(child: &Child) -> Process {
        Process { pid: Pid::from_child(child), gone: Mutex::new(false) }
    }

    fn kill(&self) {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if !*gone {
            kill_process_group(self.pid, Signal::KILL).ok();
        }
    }

    /// Waits for the command's end and for the last of its output, and closes the connection with how it ended.
    fn watch(
        &self,
        mut child: Child,
        forwarded: &Receiver<Outcome>,
        connection: &Connection,
    ) -> Outcome<ExitStatus> {
        // Without taking its end: as long as it is not taken, its number is not given to another.
        let ends = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(self.pid), ends) {}
        // What it has started may hold on to its output.
        let sent = forwarded.recv_timeout(GRACE).or_else(|_| {
            self.kill();
            forwarded.recv_timeout(GRACE)
        });
        let status = {
            let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
            *gone = true;
            child.wait().map_err(|error| Failure::Failed(format!("the command was lost: {error}")))
        };
        let reason = match (&status, &sent) {
            (Ok(status), _) if !status.success() => {
                Some(format!("the command ended with {status}"))
            }
            (_, Ok(Err(failure))) => failure.message(),
            _ => None,
        };
        drop(match reason {
            None => connection.close(),
            Some(reason) => connection.close_with(CODE_FAILED, &reason),
        });
        sent.unwrap_or(Ok(()))?;
        status
    }
}
