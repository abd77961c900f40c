//! `towline send` and `towline receive`.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::{Directory, Finished, Running, Server, Signal, WIRES, command, run, run_with};
use serde_json::Value;

fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn receive(wire: &str, out: &str, options: &[&str]) -> Server {
    Server::start(&["receive"], wire, &[&["--out", out, "--json"], options].concat())
}

fn path(directory: &Directory, name: &str) -> PathBuf {
    PathBuf::from(directory.file(name))
}

fn same_tree(a: &Path, b: &Path) {
    let list = |path: &Path| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(list(a), list(b));
    for name in list(a) {
        let (a, b) = (a.join(&name), b.join(&name));
        let (left, right) = (fs::metadata(&a).unwrap(), fs::metadata(&b).unwrap());
        assert_eq!(left.permissions().mode(), right.permissions().mode(), "{name}");
        assert_eq!(left.modified().unwrap(), right.modified().unwrap(), "{name}");
        if left.is_dir() {
            same_tree(&a, &b);
        } else {
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{name}");
        }
    }
}

#[test]
fn directories_arrive_with_everything_on_every_wire() {
    let scratch = Directory::new("tree");
    let tree = path(&scratch, "tree");
    fs::create_dir_all(tree.join("a/deep/er")).unwrap();
    fs::create_dir_all(tree.join("empty")).unwrap();
    fs::write(tree.join("nothing"), b"").unwrap();
    fs::write(tree.join("a/large"), content((2 << 20) + 12_345, 1)).unwrap();
    fs::write(tree.join("a/whole"), content(1 << 20, 2)).unwrap();
    for i in 0..200 {
        fs::write(tree.join(format!("a/deep/er/{i}")), content(i, i as u64)).unwrap();
    }
    fs::set_permissions(tree.join("a/large"), fs::Permissions::from_mode(0o750)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for name in ["nothing", "a/large", "empty", "a"] {
        fs::File::open(tree.join(name)).unwrap().set_modified(old).unwrap();
    }
    for wire in WIRES {
        let out = scratch.file(&format!("out-{wire}"));
        let mut server = receive(wire, &out, &["--once"]);
        let sent = server.client(&["send"], &["--json", tree.to_str().unwrap(), "-P", "3"], b"");
        let sent: Value = serde_json::from_str(&sent.expect(0).stdout).unwrap();
        assert_eq!((&sent["ok"], &sent["files"]), (&true.into(), &203.into()), "{wire}");
        let received = server.running.finish().expect(0);
        let received: Value =
            serde_json::from_str(received.stdout.lines().last().unwrap()).unwrap();
        assert_eq!((&received["ok"], &received["bytes"]), (&true.into(), &sent["bytes"]));
        same_tree(&tree, &Path::new(&out).join("tree"));
    }
}

#[test]
fn nothing_is_overwritten_unless_told() {
    let scratch = Directory::new("overwrite");
    let file = scratch.file("file");
    fs::write(&file, b"new").unwrap();
    let out = scratch.file("out");
    fs::create_dir(&out).unwrap();
    fs::write(format!("{out}/file"), b"older").unwrap();
    let server = receive("tcp", &out, &[]);
    let refused = server.client(&["send"], &[&file], b"").expect(1);
    assert!(refused.stderr.contains("--overwrite at the receiver"), "{refused:?}");
    assert_eq!(fs::read(format!("{out}/file")).unwrap(), b"older");
    // Of the same size and another content is not the same; the same content is.
    fs::write(format!("{out}/file"), b"old").unwrap();
    server.client(&["send"], &[&file], b"").expect(1);
    fs::write(format!("{out}/file"), b"new").unwrap();
    server.client(&["send"], &[&file], b"").expect(0);
    let server = receive("tcp", &out, &["--overwrite"]);
    fs::write(&file, b"newer").unwrap();
    let sent = server.client(&["send"], &["--sha256", &file], b"").expect(0);
    assert_eq!(fs::read(format!("{out}/file")).unwrap(), b"newer");
    // The hash of "newer".
    let hash = "2f3b2bd4d2b1cd9bc4cd4ae5e2c1e1b9";
    assert!(
        sent.stdout.lines().next().unwrap().ends_with("  file") && sent.stdout.len() > hash.len()
    );
}

#[test]
fn streams_go_in_and_out() {
    let scratch = Directory::new("streams");
    let out = scratch.file("out");
    let data = content(3_000_000, 5);
    let server = receive("tcp", &out, &[]);
    run_with(&server.arguments(&["send"], &["-", "--name", "a/piped"]), &data).expect(0);
    assert!(fs::read(format!("{out}/a/piped")).unwrap() == data);
    let again =
        run_with(&server.arguments(&["send"], &["-", "--name", "a/piped"]), &data).expect(1);
    assert!(again.stderr.contains("exists"), "{again:?}");

    // To standard output, a stream as well as a file.
    for piped in [true, false] {
        let port = scratch.file(&format!("port-{piped}"));
        let mut receiver = command(&[
            "receive",
            "tcp://127.0.0.1:0",
            "--once",
            "--out",
            "-",
            "--port-file",
            &port,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
        let until = std::time::Instant::now() + common::PATIENCE;
        let number = loop {
            match fs::read_to_string(&port) {
                Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
                _ => assert!(std::time::Instant::now() < until),
            }
            std::thread::yield_now();
        };
        let url = format!("tcp://127.0.0.1:{number}");
        let mut stdout = receiver.stdout.take().unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut stdout, &mut all).unwrap();
            all
        });
        match piped {
            true => run_with(&["send", &url, "-"], &data).expect(0),
            false => run(&["send", &url, &format!("{out}/a/piped")]).expect(0),
        };
        assert!(reading.join().unwrap() == data);
        assert!(receiver.wait().unwrap().success());
    }
}

/// Waits until so many bytes of the file are there.
fn wait_for_part(out: &str, records: u64) {
    let state = format!("{out}/file.towline-state");
    let until = std::time::Instant::now() + common::PATIENCE;
    while fs::metadata(&state).map_or(0, |found| found.len()) < 36 * records + 100 {
        assert!(std::time::Instant::now() < until, "nothing arrives");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn resumed(finished: &Finished) -> u64 {
    let value: Value = serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap();
    value["bytes_resumed"].as_u64().unwrap()
}

#[test]
fn a_killed_sender_goes_on_where_it_was() {
    let scratch = Directory::new("killed-sender");
    let (file, out) = (scratch.file("file"), scratch.file("out"));
    let data = content(24 << 20, 6);
    fs::write(&file, &data).unwrap();
    let mut server = receive("tcp", &out, &["--once"]);
    let mut first = Running::start(&server.arguments(&["send"], &[&file, "--rate", "100M"]));
    wait_for_part(&out, 4);
    first.signal(Signal::KILL);
    first.finish();
    let second = server.client(&["send"], &[&file, "--json"], b"").expect(0);
    assert!(resumed(&second) >= 4 << 20, "{second:?}");
    server.running.finish().expect(0);
    assert!(fs::read(format!("{out}/file")).unwrap() == data);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_killed_receiver_is_waited_for() {
    let scratch = Directory::new("killed-receiver");
    let (file, out) = (scratch.file("file"), scratch.file("out"));
    let data = content(24 << 20, 7);
    fs::write(&file, &data).unwrap();
    let mut server = receive("tcp", &out, &[]);
    // What comes back has another port: the old one may have gone to somebody else meanwhile.
    let mut again = receive("tcp", &out, &["--once"]);
    let urls = format!("{},{}", server.url, again.url);
    let mut sender = Running::start(&["send", &urls, &file, "--rate", "100M", "--json"]);
    wait_for_part(&out, 4);
    server.running.signal(Signal::KILL);
    server.running.finish();
    let sent = sender.finish().expect(0);
    assert!(resumed(&sent) >= 4 << 20, "{sent:?}");
    again.running.finish().expect(0);
    assert!(fs::read(format!("{out}/file")).unwrap() == data);
}

#[test]
fn a_full_disk_is_told_and_can_be_resumed() {
    let scratch = Directory::new("full");
    let (file, out) = (scratch.file("file"), scratch.file("out"));
    let data = content(6 << 20, 8);
    fs::write(&file, &data).unwrap();
    // Files of at most 2 MiB: a disk that is full in the middle.
    let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" receive tcp://127.0.0.1:0 --announce --out \"$1\"";
    let mut child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_towline"), &out])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let url = line.trim().strip_prefix("listening ").unwrap().to_owned();
    let failed = run(&["send", &url, &file]).expect(1);
    for part in ["the receiver gave up", "cannot write", "file"] {
        assert!(failed.stderr.contains(part), "{failed:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let server = receive("tcp", &out, &[]);
    server.client(&["send"], &[&file], b"").expect(0);
    assert!(fs::read(format!("{out}/file")).unwrap() == data);
}

#[test]
fn a_file_that_changes_is_not_given_its_name() {
    let scratch = Directory::new("changes");
    let (file, out) = (scratch.file("file"), scratch.file("out"));
    let data = content(8 << 20, 9);
    fs::write(&file, &data).unwrap();
    let server = receive("tcp", &out, &[]);
    let mut sender = Running::start(&server.arguments(&["send"], &[&file, "--rate", "50M"]));
    wait_for_part(&out, 1);
    fs::File::options().append(true).open(&file).unwrap().set_len((8 << 20) + 1).unwrap();
    let failed = sender.finish().expect(1);
    assert!(failed.stderr.contains("changed while it was read"), "{failed:?}");
    assert!(!Path::new(&format!("{out}/file")).exists());
    server.client(&["send"], &[&file], b"").expect(0);
    assert!(fs::read(format!("{out}/file")).unwrap() == fs::read(&file).unwrap());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let scratch = Directory::new("escape");
    let out = path(&scratch, "out");
    fs::create_dir(&out).unwrap();
    fs::create_dir(path(&scratch, "elsewhere")).unwrap();
    symlink(path(&scratch, "elsewhere"), out.join("link")).unwrap();
    let server = receive("tcp", out.to_str().unwrap(), &[]);
    for name in ["../escaped", "/tmp/escaped", "a/../../escaped", "link/escaped"] {
        let refused =
            run_with(&server.arguments(&["send"], &["-", "--name", name]), b"data").expect(1);
        assert!(refused.stderr.contains("refuses"), "{refused:?}");
    }
    assert!(!path(&scratch, "escaped").exists() && !path(&scratch, "elsewhere/escaped").exists());
}

#[test]
fn others_are_turned_away_and_wrong_use_is_told() {
    let scratch = Directory::new("others");
    let server = receive("tcp", &scratch.file("out"), &[]);
    let lost = run(&["connect", &server.url, "--message", "x", "--request"]).expect(1);
    assert!(lost.stderr.contains("towline send"), "{lost:?}");
    run(&["send", "tcp://127.0.0.1:1", "/does/not/exist"]).expect(1).says(&["cannot read"]);
    run(&["send", "tcp://127.0.0.1:1", "-", "x"]).expect(2).says(&["alone"]);
    run(&["receive", "tcp://127.0.0.1:0", "--out", "-"]).expect(2).says(&["--once"]);
}

#[test]
fn the_later_of_two_senders_has_the_name() {
    let scratch = Directory::new("two-senders");
    let out = scratch.file("out");
    let files: Vec<String> = ["a", "b"].map(|folder| scratch.file(folder)).into();
    let data = [content(16 << 20, 10), content(6 << 20, 11)];
    for (folder, data) in files.iter().zip(&data) {
        fs::create_dir(folder).unwrap();
        fs::write(format!("{folder}/file"), data).unwrap();
    }
    let server = receive("tcp", &out, &["--overwrite"]);
    let slow = [format!("{}/file", files[0])];
    let mut first =
        Running::start(&server.arguments(&["send"], &[&slow[0], "--rate", "20M", "-P", "1"]));
    wait_for_part(&out, 1);
    let second = format!("{}/file", files[1]);
    server.client(&["send"], &[&second], b"").expect(0);
    let told = first.finish().expect(1);
    assert!(told.stderr.contains("another sender"), "{told:?}");
    assert!(fs::read(format!("{out}/file")).unwrap() == data[1]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_file_takes_the_name_from_a_stream() {
    let scratch = Directory::new("stream-and-file");
    let (file, out) = (scratch.file("file"), scratch.file("out"));
    let data = content(3 << 20, 12);
    fs::write(&file, &data).unwrap();
    let server = receive("tcp", &out, &["--overwrite"]);
    let mut stream = Running::start(&server.arguments(&["send"], &["-", "--name", "file"]));
    stream.write(&"x".repeat(2 << 20));
    let part = format!("{out}/file.towline-part");
    let until = std::time::Instant::now() + common::PATIENCE;
    while fs::metadata(&part).map_or(0, |found| found.len()) == 0 {
        assert!(std::time::Instant::now() < until, "nothing arrives");
        std::thread::yield_now();
    }
    server.client(&["send"], &[&file], b"").expect(0);
    stream.close_input();
    let told = stream.finish().expect(1);
    assert!(told.stderr.contains("another sender"), "{told:?}");
    assert!(fs::read(format!("{out}/file")).unwrap() == data);
}

#[test]
fn sigterm_lets_transfers_end_for_a_while() {
    let scratch = Directory::new("drain");
    let (file, out) = (scratch.file("file"), scratch.file("out"));
    let data = content(24 << 20, 13);
    fs::write(&file, &data).unwrap();
    // What takes too long is told, and goes on with the next receiver.
    let mut server = receive("tcp", &out, &[]);
    let options = [&file, "--rate", "10M", "--retry", "0s"];
    let mut sender = Running::start(&server.arguments(&["send"], &options));
    wait_for_part(&out, 1);
    server.running.signal(Signal::TERM);
    server.running.finish().expect(0);
    let told = sender.finish().expect(1);
    assert!(told.stderr.contains("the receiver is ending"), "{told:?}");
    // What has little left comes to its end.
    let mut server = receive("tcp", &out, &[]);
    let mut sender =
        Running::start(&server.arguments(&["send"], &[&file, "--rate", "200M", "--json"]));
    wait_for_part(&out, 8);
    server.running.signal(Signal::TERM);
    assert!(resumed(&sender.finish().expect(0)) >= 1 << 20);
    server.running.finish().expect(0);
    assert!(fs::read(format!("{out}/file")).unwrap() == data);
}
