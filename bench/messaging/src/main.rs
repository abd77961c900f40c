//! Towline's messages against plain loops, tokio, nng and ZeroMQ: the same work in the same run, interleaved, each side
//! pinned to a core of its own.
//!
//!     cargo run --release -- [--rounds N] [--seconds S] [--only SCENARIO]... [--json]
//!
//! Every measurement is a pair of processes: a server and a client of one contender. Rounds go through all contenders
//! before the next begins, so that a slow moment of the machine meets all of them. Figures are medians over the rounds.

mod nng;
#[path = "../../shared/pin.rs"]
mod pin;
mod raw;
mod scenario;
mod secure;
mod tokio_peer;
mod towline_peer;
mod zmq;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use scenario::{SCENARIOS, Scenario};

/// A contender: what a server process and a client process of it do. The server prints its port first, and for one-way
/// scenarios its rate last; the client prints its rate for the others.
pub struct Contender {
    name: &'static str,
    serve: fn(&Scenario, f64),
    drive: fn(&Scenario, u16, f64),
    speaks: fn(&Scenario) -> bool,
}

const CONTENDERS: &[Contender] = &[
    Contender { name: "blocking", serve: raw::serve_blocking, drive: raw::drive_blocking, speaks: raw::blocking_speaks },
    Contender { name: "epoll", serve: raw::serve_epoll, drive: raw::drive_epoll, speaks: raw::epoll_speaks },
    Contender { name: "rustls", serve: secure::serve, drive: secure::drive, speaks: secure::speaks },
    Contender { name: "tokio", serve: tokio_peer::serve, drive: tokio_peer::drive, speaks: tokio_peer::speaks },
    Contender { name: "nng", serve: nng::serve, drive: nng::drive, speaks: nng::speaks },
    Contender { name: "zeromq", serve: zmq::serve, drive: zmq::drive, speaks: zmq::speaks },
    Contender { name: "towline-epoll", serve: towline_peer::serve_epoll, drive: towline_peer::drive_epoll, speaks: towline_peer::speaks },
    Contender { name: "towline-spin", serve: towline_peer::serve_spin, drive: towline_peer::drive_spin, speaks: towline_peer::spin_speaks },
    Contender { name: "towline-uring", serve: towline_peer::serve_uring, drive: towline_peer::drive_uring, speaks: towline_peer::speaks },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", contender, scenario, seconds] => {
            pin::to_core(0);
            (contender_named(contender).serve)(scenario_named(scenario), seconds.parse().expect("seconds"));
        }
        ["drive", contender, scenario, port, seconds] => {
            pin::to_core(1);
            let (port, seconds) = (port.parse().expect("port"), seconds.parse().expect("seconds"));
            (contender_named(contender).drive)(scenario_named(scenario), port, seconds);
        }
        _ => compare(&words),
    }
}

fn contender_named(name: &str) -> &'static Contender {
    CONTENDERS.iter().find(|c| c.name == name).expect("a contender")
}

fn scenario_named(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|s| s.name == name).expect("a scenario")
}

fn option<'a>(words: &[&'a str], name: &str) -> Vec<&'a str> {
    words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1]).collect()
}

fn compare(words: &[&str]) {
    let rounds: usize = option(words, "--rounds").first().map_or(5, |n| n.parse().expect("rounds"));
    let seconds: f64 = option(words, "--seconds").first().map_or(1.0, |n| n.parse().expect("seconds"));
    let only = option(words, "--only");
    let json = words.contains(&"--json");
    for scenario in SCENARIOS {
        if !only.is_empty() && !only.contains(&scenario.name) {
            continue;
        }
        let contenders: Vec<&Contender> = CONTENDERS.iter().filter(|c| (c.speaks)(scenario)).collect();
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for _ in 0..rounds {
            for (contender, rates) in contenders.iter().zip(&mut rates) {
                rates.push(measure(contender, scenario, seconds));
            }
        }
        report(scenario, &contenders, &rates, json);
    }
}

/// One server and one client process; the rate that either of them prints.
fn measure(contender: &Contender, scenario: &Scenario, seconds: f64) -> f64 {
    let seconds = seconds.to_string();
    let mut server = start(&["serve", contender.name, scenario.name, &seconds]);
    let mut server_out = BufReader::new(server.stdout.take().expect("piped"));
    let mut port = String::new();
    server_out.read_line(&mut port).expect("the server's port");
    let mut client = start(&["drive", contender.name, scenario.name, port.trim(), &seconds]);
    let mut text = String::new();
    client.stdout.take().expect("piped").read_to_string(&mut text).expect("the client's rate");
    client.wait().expect("the client");
    if scenario.is_one_way() {
        text.clear();
        server_out.read_to_string(&mut text).expect("the server's rate");
    }
    server.kill().ok();
    server.wait().expect("the server");
    text.trim().parse().unwrap_or_else(|_| panic!("{} printed {text:?} for {}", contender.name, scenario.name))
}

fn start(arguments: &[&str]) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("a child process")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn report(scenario: &Scenario, contenders: &[&Contender], rates: &[Vec<f64>], json: bool) {
    let medians: Vec<f64> = rates.iter().map(|rates| median(rates)).collect();
    if !json {
        println!("\n{} ({}/s)", scenario.title, scenario.unit);
    }
    for ((contender, median), all) in contenders.iter().zip(&medians).zip(rates) {
        let (low, high) = all.iter().fold((f64::MAX, 0f64), |(low, high), x| (low.min(*x), high.max(*x)));
        let ratios: Vec<String> = contenders
            .iter()
            .zip(rates)
            .filter(|(other, _)| !other.name.starts_with("towline") && contender.name.starts_with("towline"))
            .map(|(other, others)| {
                // A ratio per round, because its two sides met the same moment of the machine.
                let ratios: Vec<f64> = all.iter().zip(others).map(|(a, b)| a / b).collect();
                match json {
                    true => format!("\"{}\":{:.3}", other.name, self::median(&ratios)),
                    false => format!("{:.2} {}", self::median(&ratios), other.name),
                }
            })
            .collect();
        match json {
            true => println!(
                "{{\"scenario\":\"{}\",\"contender\":\"{}\",\"median\":{median:.0},\"low\":{low:.0},\"high\":{high:.0},\"ratios\":{{{}}}}}",
                scenario.name, contender.name, ratios.join(",")
            ),
            false => println!("  {:<14} {median:>12.0}  ({low:.0} to {high:.0})  {}", contender.name, ratios.join(", ")),
        }
    }
}
