//! tokio, one runtime thread per process, the sizes known to both sides.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::scenario::{Kind, Meter, Scenario};

pub fn speaks(scenario: &Scenario) -> bool {
    match scenario.kind {
        Kind::PingPong { .. } => true,
        Kind::OneWay => scenario.size > 64,
        Kind::OneWayTls => false,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime")
}

pub fn serve(scenario: &Scenario, _: f64) {
    let (size, one_way) = (scenario.size, scenario.is_one_way());
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("bound").port());
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.set_nodelay(true).expect("an option");
            let mut buffer = vec![0; size];
            if one_way {
                let mut meter = Meter::default();
                while stream.read_exact(&mut buffer).await.is_ok() {
                    meter.add(1);
                }
                meter.print();
                return;
            }
            tokio::task::spawn_local(async move {
                while stream.read_exact(&mut buffer).await.is_ok() {
                    if stream.write_all(&buffer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}

pub fn drive(scenario: &Scenario, port: u16, seconds: f64) {
    let size = scenario.size;
    let length = Duration::from_secs_f64(seconds);
    let local = tokio::task::LocalSet::new();
    let kind = scenario.kind;
    local.block_on(&runtime(), async move {
        let start = Instant::now();
        let Kind::PingPong { connections } = kind else {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
            stream.set_nodelay(true).expect("an option");
            let buffer = vec![7; size];
            while start.elapsed() < length {
                stream.write_all(&buffer).await.expect("the server reads");
            }
            return;
        };
        let mut tasks = Vec::new();
        for _ in 0..connections {
            tasks.push(tokio::task::spawn_local(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
                stream.set_nodelay(true).expect("an option");
                let mut buffer = vec![7; size];
                let mut count = 0u64;
                while start.elapsed() < length {
                    stream.write_all(&buffer).await.expect("the server reads");
                    stream.read_exact(&mut buffer).await.expect("an echo");
                    count += 1;
                }
                count
            }));
        }
        let mut total = 0;
        for task in tasks {
            total += task.await.expect("a task");
        }
        println!("{}", total as f64 / start.elapsed().as_secs_f64());
    });
}
