//! Towline's QUIC against quinn, noq with its own driver, s2n-quic and quiche: the same work over loopback in the same run, contenders in
//! turns, each side pinned to a core of its own.
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
#[path = "../../shared/pin.rs"]
mod pin;
mod quiche_peer;
mod quinn_peer;
mod report;
mod s2n_peer;
mod tls;
mod towline_peer;
mod work;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use towline::DriverChoice;
use towline::quic::Provider;
use towline_peer::{Variant, drive, serve};
use work::{Kind, Run, WORKS, Work};

/// A contender: what a server process and a client process of it do. The server prints its port; the client prints its figures.
pub struct Contender {
    name: &'static str,
    /// What it is and how it is set, for the output.
    is: &'static str,
    serve: fn(&Path),
    drive: fn(&Run),
    does: fn(Kind) -> bool,
}

const fn peer(
    name: &'static str,
    is: &'static str,
    serve: fn(&Path),
    drive: fn(&Run),
) -> Contender {
    Contender { name, is, serve, drive, does: |_| true }
}

const EPOLL: Variant = Variant { driver: DriverChoice::Epoll, provider: Provider::Ring };
const AWS_LC: Variant = Variant { driver: DriverChoice::Auto, provider: Provider::AwsLcRs };

const CONTENDERS: &[Contender] = &[
    peer(
        "quinn",
        "quinn 0.11, one thread of tokio; ring; CUBIC; its defaults",
        quinn_peer::quinn::serve,
        quinn_peer::quinn::drive,
    ),
    peer(
        "noq",
        "noq 1.4, one thread of tokio; ring; CUBIC; its defaults",
        quinn_peer::noq::serve,
        quinn_peer::noq::drive,
    ),
    peer(
        "s2n-quic",
        "s2n-quic 1.91, one thread of tokio; rustls with aws-lc-rs; CUBIC; its defaults",
        s2n_peer::serve,
        s2n_peer::drive,
    ),
    peer(
        "quiche",
        "quiche 0.30 in a loop over ppoll, GSO and GRO; BoringSSL; CUBIC; the windows of its own commands, 10 MB and 1 MB",
        quiche_peer::serve,
        quiche_peer::drive,
    ),
    peer(
        "towline",
        "a handler on the I/O thread at both ends; io_uring; ring; CUBIC; our defaults",
        |folder| serve(folder, Variant::default()),
        |run| drive(run, Variant::default()),
    ),
    peer(
        "towline-futures",
        "the same server; futures in an application's thread",
        |folder| serve(folder, Variant::default()),
        towline_peer::drive_futures,
    ),
    peer("towline-epoll", "handlers; epoll", |f| serve(f, EPOLL), |r| drive(r, EPOLL)),
    peer("towline-aws-lc", "handlers; aws-lc-rs", |f| serve(f, AWS_LC), |r| drive(r, AWS_LC)),
    Contender {
        name: "ceiling",
        is: "full packets sealed and opened by ring, UDP GSO and GRO, nothing else",
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
    println!(
        "TLS_AES_128_GCM_SHA256, ECDSA P-256, X25519, idle timeout 600 s, path MTU discovery (but for quiche, with 1,452 bytes at once); medians of {rounds} rounds of {seconds} s"
    );
    for Contender { name, is, .. } in CONTENDERS {
        println!("  {name:<16} {is}");
    }
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
