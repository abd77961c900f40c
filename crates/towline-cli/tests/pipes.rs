//! What `towline listen` and `towline connect` join connections with: pipes, frames, commands.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{Running, Server, run, run_with};

/// What a listener printed behind its announcement.
fn printed(server: &mut Server) -> String {
    let printed = server.running.finish().expect(0).stdout;
    printed.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn piped_lines_are_sent_without_being_asked_for() {
    let mut server = Server::start(&["listen"], "tcp", &["--once"]);
    server.client(&["connect"], &[], b"one\ntwo\n").expect(0);
    assert_eq!(printed(&mut server), "one\ntwo\n");
}

#[test]
fn an_empty_pipe_leaves_a_listener_s_words_to_be_printed() {
    let server = Server::start(&["listen"], "tcp", &["--exec", "echo good day"]);
    let heard = server.client(&["connect"], &[], b"").expect(0);
    assert_eq!((heard.stdout.as_str(), heard.stderr.as_str()), ("good day\n", ""));
    // Told that standard input is what there is to send, it ends with it.
    let silent = Server::start(&["listen"], "tcp", &["--sink"]);
    silent.client(&["connect"], &["--stdin"], b"").expect(0);
}

#[test]
fn frames_carry_what_lines_cannot() {
    let frames = b"\0\0\0\x03a\nb\0\0\0\0\0\0\0\x02\n\n";
    let server = Server::start(&["listen"], "tcp", &["--echo"]);
    let replies = server.client(&["connect"], &["--framed", "--request"], frames).expect(0);
    assert_eq!(replies.stdout.as_bytes(), frames);
    let mut server = Server::start(&["listen"], "tcp", &["--once", "--framed"]);
    server.client(&["connect"], &["--framed"], frames).expect(0);
    assert_eq!(printed(&mut server).as_bytes(), frames);
    let server = Server::start(&["listen"], "tcp", &["--sink"]);
    let cut = server.client(&["connect"], &["--framed"], b"\0\0\0\x03ab").expect(1);
    cut.says(&["standard input", "within a message"]);
    let long = server.client(&["connect"], &["--framed"], b"GET / HTTP/1.1").expect(1);
    long.says(&["standard input", "four octets"]);
}

#[test]
fn a_command_answers_each_connection() {
    let answer = "while read -r line; do echo \"heard $line\"; done";
    for wire in ["tcp", "ws"] {
        let server = Server::start(&["listen"], wire, &["--exec", answer]);
        let arguments = server.arguments(&["connect"], &["--stdin"]);
        let mut clients = [Running::start(&arguments), Running::start(&arguments)];
        for word in ["one", "two"] {
            for client in &mut clients {
                client.write(&format!("{word}\n"));
                assert_eq!(client.out.wait_for(word), format!("heard {word}"));
            }
        }
    }
}

#[test]
fn a_command_s_frames_are_messages() {
    let server = Server::start(&["listen"], "tcp", &["--exec", "cat", "--framed"]);
    let client = server.arguments(&["connect"], &["--framed"]);
    let mut client = Running::start(&client);
    client.write("\0\0\0\x04a\nb\n");
    assert!(client.out.wait_for("a").ends_with('a'));
    assert_eq!(client.out.wait_for("b"), "b");
}

#[test]
fn a_command_s_end_ends_the_connection_and_says_how() {
    let server = Server::start(&["listen"], "tcp", &["--exec", "echo last words; exit 3"]);
    let heard = server.client(&["connect"], &[], b"").expect(1);
    assert_eq!(heard.stdout, "last words\n");
    assert!(heard.stderr.contains("exit status: 3"), "{heard:?}");

    let mut server = Server::start(&["listen"], "tcp", &["--once"]);
    server.client(&["connect"], &["--exec", "printf 'a\\nb'"], b"").expect(0);
    assert_eq!(printed(&mut server), "a\nb\n");
    let server = Server::start(&["listen"], "tcp", &["--sink"]);
    let failed = server.client(&["connect"], &["--exec", "exit 4"], b"").expect(1);
    failed.says(&["exit status: 4"]);
}

#[test]
fn a_connection_s_end_ends_the_command() {
    // One that reads to its end, one that closes its output at once, one that reads nothing and is killed.
    let directory = common::Directory::new("exec");
    let kept = directory.file("kept");
    for command in ["cat", &format!("exec cat > {kept}")] {
        let mut server = Server::start(&["listen"], "tcp", &["--once", "--exec", command]);
        server.client(&["connect"], &[], b"one\ntwo\n").expect(0);
        server.running.finish().expect(0);
    }
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "one\ntwo\n");
    let mut server = Server::start(&["listen"], "tcp", &["--once", "--exec", "sleep 1000"]);
    server.client(&["connect"], &["--message", "x"], b"").expect(0);
    let killed = server.running.finish().expect(1);
    assert!(killed.stderr.contains("signal: 9"), "{killed:?}");
}

#[test]
fn wrong_combinations_are_refused() {
    for options in [
        &["--exec", "cat", "--message", "x"][..],
        &["--exec", "cat", "--request"],
        &["--framed", "--format", "json"],
        &["--framed", "--message", "x"],
    ] {
        run_with(&[&["connect", "tcp://127.0.0.1:1"], options].concat(), b"").expect(2);
    }
    for options in [&["--exec", "cat", "--echo"][..], &["--framed", "--sink"], &["--text"]] {
        run(&[&["listen", "tcp://127.0.0.1:0"], options].concat()).expect(2);
    }
}

/// A WebSocket client by hand: what it sends is masked with zeros, so that it stands in the frame as it is.
fn hand_made(url: &str) -> TcpStream {
    let address = url.strip_prefix("ws://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream
}

#[test]
fn a_web_page_that_is_left_is_no_failure() {
    // RFC 6455 section 7.4.1.
    for (code, exit) in [(1000u16, 0), (1001, 0), (1002, 1), (1011, 1)] {
        let mut server = Server::start(&["listen"], "ws", &["--once"]);
        let mut stream = hand_made(&server.url);
        stream.write_all(b"\x81\x82\0\0\0\0hi\x88\x82\0\0\0\0").unwrap();
        stream.write_all(&code.to_be_bytes()).unwrap();
        let ended = server.running.finish().expect(exit);
        assert!(ended.stdout.ends_with("hi\n"), "{ended:?}");
        assert_eq!(ended.stderr.is_empty(), exit == 0, "{ended:?}");
    }
    // Without a code.
    let mut server = Server::start(&["listen"], "ws", &["--once"]);
    hand_made(&server.url).write_all(b"\x88\x80\0\0\0\0").unwrap();
    assert_eq!(server.running.finish().expect(0).stderr, "");
}

#[test]
fn text_goes_out_as_text() {
    let options = ["--text", "--exec", "echo hello; cat"];
    let server = Server::start(&["listen"], "ws", &options);
    let mut stream = hand_made(&server.url);
    let mut frame = [0; 7];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x05hello");
}
