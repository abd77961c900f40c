//! Towline's QUIC against quinn, and noq with its own driver: the same work over loopback in the same run, contenders in turns, each side
//! pinned to a core of its own.
//!
//!     cargo run --release -- [--rounds N] [--seconds S] [--connections N] [--only WORK]... [--peer CONTENDER]...
//!
//! Every measurement is a pair of processes: a server and a client of one contender. Rounds go through all contenders before the next begins, so that a
//! slow moment of the machine meets all of them. Figures are medians over the rounds; ratios are of one round, and then the median.
//!
//! All have TLS_AES_128_GCM_SHA256, an ECDSA P-256 certificate, an idle timeout of ten minutes, and otherwise their defaults; `ceiling` is what the system
//! and the cipher leave: packets of the same size sealed, sent with UDP GSO, received with GRO and opened, and nothing else.

mod asynchronous;
mod ceiling;
mod evented;
mod meter;
mod pin;
mod quinn_peer;
mod report;
mod tls;
mod towline_peer;
mod work;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use work::{Kind, Run, WORKS, Work};

/// A contender: what a server process and a client process of it do. The server prints its port; the client prints its figures.
pub struct Contender {
    name: &'static str,
    serve: fn(&Path),
    drive: fn(&Run),
    does: fn(Kind) -> bool,
}

const fn peer(name: &'static str, serve: fn(&Path), drive: fn(&Run)) -> Contender {
    Contender { name, serve, drive, does: |_| true }
}

const CONTENDERS: &[Contender] = &[
    peer("quinn", quinn_peer::quinn::serve, quinn_peer::quinn::drive),
    peer("noq", quinn_peer::noq::serve, quinn_peer::noq::drive),
    peer("towline", towline_peer::serve, towline_peer::drive),
    peer("towline-futures", towline_peer::serve, towline_peer::drive_futures),
    Contender {
        name: "ceiling",
        serve: ceiling::serve,
        drive: ceiling::drive,
        does: |kind| matches!(kind, Kind::Bulk),
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", contender, folder] => {
            pin::to_core(0);
            (contender_named(contender).serve)(Path::new(folder));
        }
        ["drive", contender, work, folder, port, server, seconds, connections] => {
            pin::to_core(1);
            let run = Run {
                kind: work_named(work).kind,
                folder: Path::new(folder).to_owned(),
                to: ([127, 0, 0, 1], port.parse().expect("port")).into(),
                server: server.parse().expect("process id"),
                seconds: seconds.parse().expect("seconds"),
                connections: connections.parse().expect("connections"),
            };
            (contender_named(contender).drive)(&run);
        }
        _ => compare(&words),
    }
}

fn contender_named(name: &str) -> &'static Contender {
    CONTENDERS.iter().find(|c| c.name == name).expect("a contender")
}

fn work_named(name: &str) -> &'static Work {
    WORKS.iter().find(|w| w.name == name).expect("a work")
}

fn options<'a>(words: &[&'a str], name: &str) -> Vec<&'a str> {
    words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1]).collect()
}

fn compare(words: &[&str]) {
    let rounds: usize =
        options(words, "--rounds").first().map_or(5, |n| n.parse().expect("rounds"));
    let seconds = options(words, "--seconds").first().copied().unwrap_or("1");
    let connections = options(words, "--connections").first().copied().unwrap_or("10000");
    let (only, peers) = (options(words, "--only"), options(words, "--peer"));
    let folder = tls::make();
    for work in WORKS.iter().filter(|work| only.is_empty() || only.contains(&work.name)) {
        let chosen =
            |c: &&Contender| (c.does)(work.kind) && (peers.is_empty() || peers.contains(&c.name));
        let contenders: Vec<&Contender> = CONTENDERS.iter().filter(chosen).collect();
        let mut figures: Vec<Vec<Vec<f64>>> = vec![Vec::new(); contenders.len()];
        // Memory is a count, and takes a while.
        for _ in 0..if matches!(work.kind, Kind::Idle) { 1 } else { rounds } {
            for (contender, figures) in contenders.iter().zip(&mut figures) {
                figures.push(measure(contender, work, &folder, seconds, connections));
            }
        }
        let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
        report::print(work, &names, &figures);
    }
    std::fs::remove_dir_all(folder).ok();
}

/// One server and one client process; the figures that the client prints.
fn measure(
    contender: &Contender,
    work: &Work,
    folder: &Path,
    seconds: &str,
    connections: &str,
) -> Vec<f64> {
    let folder = folder.to_str().expect("a path of text");
    let mut server = start(&["serve", contender.name, folder]);
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("piped"))
        .read_line(&mut port)
        .expect("the server's port");
    let id = server.id().to_string();
    let mut client = start(&[
        "drive",
        contender.name,
        work.name,
        folder,
        port.trim(),
        &id,
        seconds,
        connections,
    ]);
    let mut text = String::new();
    client.stdout.take().expect("piped").read_to_string(&mut text).expect("the client's figures");
    client.wait().expect("the client");
    server.kill().ok();
    server.wait().expect("the server");
    let figures: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(
        figures.len(),
        work.measures.len(),
        "{} printed {text:?} for {}",
        contender.name,
        work.name
    );
    figures
}

fn start(arguments: &[&str]) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("a child process")
}

/// What a server process says first.
fn announce(port: u16) {
    use std::io::Write;
    println!("{port}");
    std::io::stdout().flush().expect("standard output");
}
