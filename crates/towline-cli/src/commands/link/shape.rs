//! The link on the command line: what each direction does.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;
use towline_sim::{Bitrate, Burst, LinkChange, LinkConfig, Loss, QueueLimit};

use super::runtime::{Incident, Proxy};
use crate::failure::{Failure, Outcome};
use crate::units;

/// The longest delay, jitter and reordering: released channels are quiet for longer than packets are under way.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// What packets meet, in both directions unless `--up` or `--down` says otherwise.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The link")]
pub(crate) struct Shape {
    /// Bits per second, headers and Ethernet framing counted; without it there is no limit.
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    rate: Option<u64>,
    /// Time from one end to the other, one way.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    delay: Option<Duration>,
    /// Variation of the delay to either side, every value equally likely; order is kept.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    jitter: Option<Duration>,
    /// Share of packets lost, such as 2% or 0.02.
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    loss: Option<f64>,
    /// Losses come so many in a row, in the mean (Gilbert's model).
    #[arg(long, value_name = "PACKETS", requires = "loss")]
    burst: Option<f64>,
    /// Share of packets held back, so that later ones overtake them; by 10 ms unless a time follows, as in 1%,5ms.
    #[arg(long, value_name = "SHARE[,TIME]", value_parser = parse_reorder)]
    reorder: Option<(f64, Duration)>,
    /// Share of packets that arrive twice.
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    duplicate: Option<f64>,
    /// Share of packets in which a bit is flipped.
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    corrupt: Option<f64>,
    /// What may wait in front of the rate: a time, or bytes (64K), or packets (100p) [default: 100ms]
    #[arg(long, value_name = "LIMIT", value_parser = parse_queue)]
    queue: Option<QueueLimit>,
    /// What a pause saves up for a burst at once, as a time at the rate.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    bucket: Option<Duration>,
    /// The largest packet, IP and UDP headers included.
    #[arg(long, value_name = "BYTES", default_value = "1500", value_parser = clap::value_parser!(u32).range(68..=65_535))]
    mtu: u32,
    /// Other values from clients to targets, such as rate=10M,loss=1%.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_changes)]
    up: Option<Changes>,
    /// Other values from targets to clients.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_changes)]
    down: Option<Changes>,
    /// Nothing arrives from a time on, for a time, such as 5s+2s; may be repeated.
    #[arg(long, value_name = "AT+FOR", value_parser = parse_outage)]
    outage: Vec<(Duration, Duration)>,
    /// Both directions change at a time, such as 10s:rate=1M,loss=5%; may be repeated.
    #[arg(long, value_name = "AT:KEY=VALUE,...", value_parser = parse_change)]
    at: Vec<(Duration, Changes)>,
    /// TCP connections are reset at this time; may be repeated.
    #[arg(long, value_name = "AT", value_parser = units::duration)]
    cut: Vec<Duration>,
    /// Clients' datagrams come from another port from this time on, as behind a NAT that forgets; may be repeated.
    #[arg(long, value_name = "AT", value_parser = units::duration)]
    rebind: Vec<Duration>,
}

/// `KEY=VALUE,...`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Changes(Vec<Change>);

#[derive(Clone, Debug, PartialEq)]
enum Change {
    Rate(u64),
    Delay(Duration),
    Jitter(Duration),
    Loss(f64),
    Burst(f64),
    Reorder(f64, Duration),
    Duplicate(f64),
    Corrupt(f64),
    Queue(QueueLimit),
    Bucket(Duration),
    Mtu(u32),
}

fn parse_reorder(text: &str) -> Result<(f64, Duration), String> {
    let (share, time) = text.split_once([',', '+']).unwrap_or((text, "10ms"));
    Ok((units::share(share)?, units::duration(time)?))
}

fn parse_queue(text: &str) -> Result<QueueLimit, String> {
    if text == "none" {
        return Ok(QueueLimit::Unlimited);
    }
    if let Some(packets) = text.strip_suffix('p') {
        let wrong = |_| format!("`{text}` is not a number of packets");
        return packets.parse().map(QueueLimit::Packets).map_err(wrong);
    }
    if text.ends_with('s') {
        return units::duration(text).map(QueueLimit::Time);
    }
    units::size(text).map(QueueLimit::Bytes)
}

fn parse_outage(text: &str) -> Result<(Duration, Duration), String> {
    let (at, length) = text
        .split_once('+')
        .ok_or_else(|| format!("`{text}` is not a time and a length, such as 5s+2s"))?;
    Ok((units::duration(at)?, units::duration(length)?))
}

fn parse_change(text: &str) -> Result<(Duration, Changes), String> {
    let (at, changes) = text
        .split_once(':')
        .ok_or_else(|| format!("`{text}` is not a time and changes, such as 5s:loss=5%"))?;
    let changes = parse_changes(changes)?;
    match changes.0.iter().find(|change| matches!(change, Change::Burst(_) | Change::Bucket(_))) {
        Some(_) => Err("burst and bucket cannot change while the link runs".into()),
        None => Ok((units::duration(at)?, changes)),
    }
}

fn parse_changes(text: &str) -> Result<Changes, String> {
    text.split(',').map(parse_one).collect::<Result<_, _>>().map(Changes)
}

fn parse_one(text: &str) -> Result<Change, String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok(match key.trim() {
        "rate" => Change::Rate(units::rate(value)?),
        "delay" => Change::Delay(units::duration(value)?),
        "jitter" => Change::Jitter(units::duration(value)?),
        "loss" => Change::Loss(units::share(value)?),
        "burst" => Change::Burst(value.parse().map_err(|_| format!("`{value}` is no number"))?),
        "reorder" => {
            let (share, extra) = parse_reorder(value)?;
            Change::Reorder(share, extra)
        }
        "duplicate" => Change::Duplicate(units::share(value)?),
        "corrupt" => Change::Corrupt(units::share(value)?),
        "queue" => Change::Queue(parse_queue(value)?),
        "bucket" => Change::Bucket(units::duration(value)?),
        "mtu" => Change::Mtu(value.parse().map_err(|_| format!("`{value}` is no size"))?),
        key => {
            return Err(format!(
                "`{key}` is none of rate, delay, jitter, loss, burst, reorder, duplicate, corrupt, queue, bucket, mtu"
            ));
        }
    })
}

impl Changes {
    fn apply(&self, shape: &mut Shape) {
        for change in &self.0 {
            match *change {
                Change::Rate(rate) => shape.rate = Some(rate),
                Change::Delay(delay) => shape.delay = Some(delay),
                Change::Jitter(jitter) => shape.jitter = Some(jitter),
                Change::Loss(loss) => shape.loss = Some(loss),
                Change::Burst(burst) => shape.burst = Some(burst),
                Change::Reorder(share, extra) => shape.reorder = Some((share, extra)),
                Change::Duplicate(share) => shape.duplicate = Some(share),
                Change::Corrupt(share) => shape.corrupt = Some(share),
                Change::Queue(limit) => shape.queue = Some(limit),
                Change::Bucket(time) => shape.bucket = Some(time),
                Change::Mtu(bytes) => shape.mtu = bytes,
            }
        }
    }

    /// The same for a link that runs; burst and bucket were refused.
    fn steps(&self) -> impl Iterator<Item = LinkChange> {
        self.0.iter().filter_map(|change| {
            Some(match *change {
                Change::Rate(rate) => LinkChange::Rate(Some(Bitrate::from_bps(rate))),
                Change::Delay(delay) => LinkChange::Delay(delay),
                Change::Jitter(jitter) => LinkChange::Jitter(jitter),
                Change::Loss(loss) => LinkChange::Loss(Loss::Independent(loss)),
                Change::Reorder(probability, extra) => {
                    LinkChange::Reorder(Some(towline_sim::Reorder { probability, extra }))
                }
                Change::Duplicate(share) => LinkChange::Duplicate(share),
                Change::Corrupt(share) => LinkChange::Corrupt(share),
                Change::Queue(limit) => LinkChange::Queue(limit),
                Change::Mtu(bytes) => LinkChange::Mtu(bytes),
                Change::Burst(_) | Change::Bucket(_) => return None,
            })
        })
    }
}

impl Shape {
    /// What each direction does: from clients to targets, and back.
    pub(crate) fn links(&self) -> Outcome<(LinkConfig, LinkConfig)> {
        let direction = |own: &Option<Changes>| {
            let mut shape = self.clone();
            if let Some(changes) = own {
                changes.apply(&mut shape);
            }
            shape.link()
        };
        Ok((direction(&self.up)?, direction(&self.down)?))
    }

    fn link(&self) -> Outcome<LinkConfig> {
        let mut link = LinkConfig::new().mtu(self.mtu);
        if let Some(rate) = self.rate {
            link = link.rate(Bitrate::from_bps(rate));
        }
        let late = [self.delay, self.jitter, self.reorder.map(|(_, extra)| extra)];
        if late.into_iter().flatten().any(|time| time > MAX_DELAY) {
            return Err(Failure::usage("delay, jitter and reordering are at most 30 s"));
        }
        link = link.delay(self.delay.unwrap_or_default()).jitter(self.jitter.unwrap_or_default());
        link = match (self.loss, self.burst) {
            (Some(mean), Some(burst)) if mean > 0.0 => link.loss(Loss::Burst { mean, burst }),
            (Some(loss), _) => link.loss(Loss::Independent(loss)),
            (None, Some(_)) => return Err(Failure::usage("burst needs a loss")),
            (None, None) => link,
        };
        if let Some((share, extra)) = self.reorder {
            link = link.reorder(share, extra);
        }
        link = link.duplicate(self.duplicate.unwrap_or(0.0)).corrupt(self.corrupt.unwrap_or(0.0));
        if let Some(limit) = self.queue {
            link = link.queue(limit);
        }
        if let Some(bucket) = self.bucket {
            link = link.burst(Burst::Time(bucket));
        }
        for (at, length) in &self.outage {
            link = link.outage(*at, *at + *length);
        }
        for (at, changes) in &self.at {
            for step in changes.steps() {
                link = link.at(*at, step);
            }
        }
        link.check().map_err(|error| Failure::Usage(format!("the link: {error}")))?;
        Ok(link)
    }

    /// Whether it describes anything.
    pub(crate) fn is_perfect(&self) -> bool {
        matches!(self.links(), Ok((up, down)) if up == LinkConfig::new() && down == up)
    }

    /// What happens to flows and connections.
    pub(crate) fn incidents(&self) -> Vec<(Duration, Incident)> {
        let cuts = self.cut.iter().map(|at| (*at, Incident::Cut));
        cuts.chain(self.rebind.iter().map(|at| (*at, Incident::Rebind))).collect()
    }
}

/// `LISTEN=TARGET`
pub(super) fn parse_proxy(text: &str) -> Result<Proxy, String> {
    let (listen, target) = text.split_once('=').ok_or_else(|| {
        format!("`{text}` is not LISTEN=TARGET, such as 127.0.0.1:0=192.0.2.7:7000")
    })?;
    let resolve = |text: &str| -> Result<SocketAddr, String> {
        let mut found = text
            .to_socket_addrs()
            .map_err(|error| format!("`{text}` is not HOST:PORT: {error}"))?;
        found.next().ok_or_else(|| format!("`{text}` has no address"))
    };
    let (listen, target) = (resolve(listen)?, resolve(target)?);
    if target.port() == 0 {
        return Err(format!("`{text}`: the target needs a port"));
    }
    Ok(Proxy { listen, target })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        shape: Shape,
    }

    fn shape(line: &str) -> Shape {
        Line::try_parse_from(std::iter::once("link").chain(line.split_whitespace())).unwrap().shape
    }

    #[test]
    fn a_line_is_a_link_of_the_simulator() {
        let line = "--rate 1gbit --delay 50ms --loss 2% --queue 11ms --bucket 10ms";
        let lab = LinkConfig::lab(Bitrate::from_gbps(1), Duration::from_millis(50), 0.02);
        assert_eq!(shape(line).links().unwrap(), (lab.clone(), lab));
    }

    #[test]
    fn directions_may_differ() {
        let line = "--rate 100M --loss 1% --up rate=10M,burst=4 --down loss=0,queue=20p";
        let (up, down) = shape(line).links().unwrap();
        let common = LinkConfig::new();
        let burst = Loss::Burst { mean: 0.01, burst: 4.0 };
        assert_eq!(up, common.clone().rate(Bitrate::from_mbps(10)).loss(burst));
        let expected = common.rate(Bitrate::from_mbps(100)).loss(Loss::Independent(0.0));
        assert_eq!(down, expected.queue(QueueLimit::Packets(20)));
    }

    #[test]
    fn schedules_are_kept() {
        let line = "--outage 5s+2s --at 10s:rate=1M,loss=0.5 --cut 3s --rebind 1s --cut 1s";
        let shape = shape(line);
        let seconds = Duration::from_secs;
        let expected = LinkConfig::new()
            .loss(Loss::None)
            .outage(seconds(5), seconds(7))
            .at(seconds(10), LinkChange::Rate(Some(Bitrate::from_mbps(1))))
            .at(seconds(10), LinkChange::Loss(Loss::Independent(0.5)));
        assert_eq!(shape.links().unwrap().0, expected);
        let cut = |at| (seconds(at), Incident::Cut);
        assert_eq!(shape.incidents(), [cut(3), cut(1), (seconds(1), Incident::Rebind)]);
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "--loss 120%",
            "--loss -1",
            "--burst 4",
            "--queue 5x",
            "--up speed=3",
            "--up rate",
            "--outage 5s",
            "--at 5s",
            "--at 5s:bucket=1ms",
            "--reorder 1%,x",
            "--mtu 10",
        ] {
            let line = std::iter::once("link").chain(wrong.split_whitespace());
            assert!(Line::try_parse_from(line).is_err(), "{wrong}");
        }
        for wrong in ["--loss 60% --burst 1", "--delay 31s", "--up burst=3"] {
            assert!(shape(wrong).links().is_err(), "{wrong}");
        }
        for wrong in ["", "127.0.0.1:1", "127.0.0.1:1=127.0.0.1:0", "x=y", "1=2"] {
            assert!(parse_proxy(wrong).is_err(), "{wrong}");
        }
    }
}
