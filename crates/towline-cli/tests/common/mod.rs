//! Runs the real command.
#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;

/// After this the command under test is taken for stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline"));
    command.args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Standard error is one line that holds each of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Finished {
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing: {self:#?}");
        }
        self
    }
}

/// Runs the command to its end.
pub(crate) fn run(arguments: &[&str]) -> Finished {
    run_with(arguments, b"")
}

/// Runs the command to its end with this on its standard input.
pub(crate) fn run_with(arguments: &[&str], input: &[u8]) -> Finished {
    let mut running = Running::start_with(arguments, Some(input.to_vec()));
    running.finish()
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) out: Lines,
    pub(crate) err: Lines,
}

/// The lines of one of its outputs.
pub(crate) struct Lines {
    lines: Receiver<String>,
    seen: String,
}

impl Lines {
    fn new(from: impl Read + Send + 'static) -> Lines {
        let (tell, lines): (Sender<String>, _) = mpsc::channel();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Lines { lines, seen: String::new() }
    }

    /// The first line from now on that holds `part`.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    if line.contains(part) {
                        return line.trim_end().to_owned();
                    }
                }
                Err(_) => panic!("`{part}` did not come; seen:\n{}", self.seen),
            }
        }
    }

    fn rest(&mut self) -> String {
        let until = Instant::now() + PATIENCE;
        while let Ok(line) =
            self.lines.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.seen.push_str(&line);
        }
        std::mem::take(&mut self.seen)
    }
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Running {
        Running::start_with(arguments, None)
    }

    /// With `None` its standard input stays open.
    pub(crate) fn start_with(arguments: &[&str], input: Option<Vec<u8>>) -> Running {
        let mut child = command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(input) = input {
            let mut stdin = child.stdin.take().unwrap();
            // It may end without having read all.
            std::thread::spawn(move || stdin.write_all(&input).ok());
        }
        let out = Lines::new(child.stdout.take().unwrap());
        let err = Lines::new(child.stderr.take().unwrap());
        Running { child, out, err }
    }

    pub(crate) fn write(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> Finished {
        let pid = rustix::process::Pid::from_child(&self.child);
        let (done, watch) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
        });
        let status: ExitStatus = {
            // Its outputs end when it does; only then is it waited for, so that the watchdog cannot hit another process.
            let (stdout, stderr) = (self.out.rest(), self.err.rest());
            drop(done);
            watchdog.join().unwrap();
            let status = self.child.wait().unwrap();
            self.out.seen = stdout;
            self.err.seen = stderr;
            status
        };
        Finished {
            code: status.code(),
            stdout: std::mem::take(&mut self.out.seen),
            stderr: std::mem::take(&mut self.err.seen),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A listener and how to reach it.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) url: String,
    /// `--pin` and the pin, on encrypted wires with a temporary certificate.
    pub(crate) trust: Vec<String>,
}

impl Server {
    /// `towline SUBCOMMAND... URL --announce OPTIONS...`
    #[track_caller]
    pub(crate) fn start(sub_command: &[&str], wire: &str, options: &[&str]) -> Server {
        let url = format!("{wire}://127.0.0.1:0");
        Server::start_at(sub_command, &url, options)
    }

    /// The same at a whole URL.
    #[track_caller]
    pub(crate) fn start_at(sub_command: &[&str], url: &str, options: &[&str]) -> Server {
        let wire = url.split_once("://").unwrap().0;
        let arguments = [sub_command, &[url, "--announce"], options].concat();
        let mut running = Running::start(&arguments);
        let mut trust = Vec::new();
        if matches!(wire, "tls" | "ftcps" | "wss" | "quic" | "bats") && !options.contains(&"--cert")
        {
            let line = running.err.wait_for("pin sha256:");
            let pin = line.split_whitespace().last().unwrap();
            trust = vec!["--pin".to_owned(), pin.to_owned()];
        }
        let line = running.out.wait_for("listening ");
        let url = line.strip_prefix("listening ").unwrap().to_owned();
        assert!(url.starts_with(wire) && !url.ends_with(":0"), "{url}");
        Server { running, url, trust }
    }

    /// Runs `towline SUBCOMMAND... URL --pin ... OPTIONS...` against it.
    pub(crate) fn client(&self, sub_command: &[&str], options: &[&str], input: &[u8]) -> Finished {
        run_with(&self.arguments(sub_command, options), input)
    }

    pub(crate) fn arguments<'a>(
        &'a self,
        sub_command: &[&'a str],
        options: &[&'a str],
    ) -> Vec<&'a str> {
        let trust = self.trust.iter().map(String::as_str);
        sub_command
            .iter()
            .copied()
            .chain([self.url.as_str()])
            .chain(trust)
            .chain(options.iter().copied())
            .collect()
    }
}

/// A directory that goes away with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Directory {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A certificate and its key, and the pin.
    pub(crate) fn certificate(&self, name: &str, names: &[&str]) -> (String, String, String) {
        let (cert, key) = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        let mut arguments = vec!["cert", "-q", "--out-cert", &cert, "--out-key", &key];
        for name in names {
            arguments.extend(["--name", name]);
        }
        let pin = run(&arguments).expect(0).stdout.trim().to_owned();
        (cert, key, pin)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

pub(crate) const WIRES: [&str; 8] = ["tcp", "tls", "ftcp", "ftcps", "ws", "wss", "quic", "bats"];
