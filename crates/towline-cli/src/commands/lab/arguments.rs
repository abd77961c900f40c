//! What can be said about a run on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use towline_lab::{Change, Changes, Control, Links, Mode, Outage, Override, Scenario};
use towline_sim::Bitrate;

use crate::units;

/// Run endpoints, relays and baselines over simulated networks, in virtual time.
///
/// Every link has, in both directions, a token bucket of 10 ms at its rate, a drop-tail queue of 11 ms, delay and
/// loss. The same seed gives the same table on every machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        towline lab brtp-matrix --rate 100mbit --svg matrix.svg\n  \
        towline lab chain --hops 3 --loss 0.05 --burst 8 --peer kcp --json\n  \
        towline lab chain --hops 3 --hop 2:rate=50mbit,loss=0.2 --outage 10s,5s\n  \
        towline lab rtt --hops 3 --loss 0.05 --mode brtp")]
pub(crate) struct Arguments {
    /// What to run.
    pub(super) scenario: Name,
    /// What runs over the network.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<Mode>,
    /// A baseline beside each cell; may be repeated. Matrices have quic-cubic and quic-bbr if none is named.
    #[arg(long = "peer", value_name = "MODE", value_parser = mode)]
    peers: Vec<Mode>,
    /// No baselines, also in matrices.
    #[arg(long, conflicts_with = "peers")]
    no_peers: bool,
    #[command(flatten)]
    links: LinkArguments,
    #[command(flatten)]
    flow: FlowArguments,
    #[command(flatten)]
    load: LoadArguments,
    /// Virtual time to run.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// How much of its beginning the steady figures leave out.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    warmup: Option<Duration>,
    /// Decides every loss.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Print one JSON object per cell in place of the table.
    #[arg(long)]
    pub(super) json: bool,
    /// Draw the cells, beside the baselines and published figures, into this file.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Cells run at a time. Default: one for each core.
    #[arg(long, value_name = "NUMBER")]
    pub(super) jobs: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Links")]
struct LinkArguments {
    /// Links in a row.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    hops: usize,
    /// The rate of each link, for instance 100mbit or 1gbit.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Bitrate>,
    /// The delay of each link, one way; several make several rows.
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = units::duration)]
    delay: Vec<Duration>,
    /// The loss of each link, 0 to 1; several make several rows.
    #[arg(long, value_name = "SHARE", value_delimiter = ',', value_parser = share)]
    loss: Vec<f64>,
    /// The mean length of loss bursts in packets (Gilbert and Elliott's model); 1 is independent loss.
    #[arg(long, value_name = "PACKETS", default_value_t = 1.0)]
    burst: f64,
    /// How far the delay varies to either side.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    jitter: Option<Duration>,
    /// The share of packets that are held back, so that others overtake them, and for how long: 0.01 or 0.01,5ms.
    #[arg(long, value_name = "SHARE[,TIME]", value_parser = reorder)]
    reorder: Option<(f64, Option<Duration>)>,
    /// The share of packets that arrive twice.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    duplicate: Option<f64>,
    /// What the token bucket saves up.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    bucket: Option<Duration>,
    /// What the queue holds.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    queue: Option<Duration>,
    /// What the direction back has of its own: rate=, delay= and loss=.
    #[arg(long, value_name = "VALUES", value_parser = values)]
    back: Option<Override>,
    /// What one hop, from 1 on, has of its own: 2:rate=50mbit,delay=30ms,loss=0.1. May be repeated.
    #[arg(long = "hop", value_name = "HOP:VALUES", value_parser = single)]
    single: Vec<(usize, Override)>,
    /// A change at a time, of all hops or of one: 10s:loss=0.2 or 10s:hop=2,rate=50mbit. May be repeated.
    #[arg(long = "change", value_name = "TIME:VALUES", value_parser = change)]
    changes: Vec<Change>,
    /// A time without anything passing, of all hops or of one: 10s,5s or 10s,5s,2. May be repeated.
    #[arg(long = "outage", value_name = "START,LENGTH[,HOP]", value_parser = outage)]
    outages: Vec<Outage>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Flows")]
struct FlowArguments {
    /// Whether each hop answers losses by itself, in coded modes.
    #[arg(long, value_name = "ON|OFF", value_parser = on_off)]
    hop_feedback: Option<bool>,
    /// Columns in a batch: 4, 8, 16, 32 or 64.
    #[arg(long, value_name = "COLUMNS")]
    batch: Option<usize>,
    /// Batches that are filled in turn.
    #[arg(long, value_name = "BATCHES")]
    interleave: Option<u8>,
    /// BTP: how old a message may become above the path's delay.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    deadline: Option<Duration>,
    /// The congestion controller of each hop: coded, bbr3, cubic, or a rate such as 90mbit, whatever happens.
    #[arg(long, value_name = "NAME|RATE", value_parser = control)]
    control: Option<Control>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct LoadArguments {
    /// Bytes of a message (rtt, btp-residual).
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    size: Option<u64>,
    /// Messages per second (rtt, btp-residual).
    #[arg(long, value_name = "NUMBER")]
    per_second: Option<f64>,
    /// Bits per second of messages, in place of their number.
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "per_second")]
    send_rate: Option<Bitrate>,
    /// Transfer an object of this many bytes in place of filling the path.
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    object: Option<u64>,
    /// Flows beside each other over one link: ours, and such with CUBIC (fairness).
    #[arg(long, value_name = "OURS,CUBIC", value_parser = beside)]
    beside: Option<(u8, u8)>,
}

/// The scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Name {
    /// One hop: delays of 10 to 100 ms by losses of 0 to 10 %.
    BrtpMatrix,
    /// One flow over links in a row.
    Chain,
    /// Messages and their answers: round trips.
    Rtt,
    /// Messages one way with a deadline: what stays lost.
    BtpResidual,
    /// Two and four flows, and one beside a CUBIC flow, over one link.
    Fairness,
}

impl Name {
    pub(super) fn scenario(self) -> Scenario {
        match self {
            Name::BrtpMatrix => Scenario::BrtpMatrix,
            Name::Chain => Scenario::Chain,
            Name::Rtt => Scenario::Rtt,
            Name::BtpResidual => Scenario::BtpResidual,
            Name::Fairness => Scenario::Fairness,
        }
    }
}

impl Arguments {
    /// The scenario's parameters.
    pub(super) fn changes(&self) -> Changes {
        let (flow, load) = (&self.flow, &self.load);
        Changes {
            mode: self.mode,
            rate: self.links.rate,
            delays: self.links.delay.clone(),
            losses: self.links.loss.clone(),
            links: self.links.to_links(),
            hop_feedback: flow.hop_feedback,
            batch: flow.batch,
            interleave: flow.interleave,
            deadline: flow.deadline,
            control: flow.control,
            duration: self.duration,
            warmup: self.warmup,
            size: load.size.map(|size| size as usize),
            per_second: load.per_second,
            send_rate: load.send_rate,
            object: load.object,
            beside: load.beside,
            seed: self.seed,
            peers: (self.no_peers || !self.peers.is_empty()).then(|| self.peers.clone()),
        }
    }
}

impl LinkArguments {
    fn to_links(&self) -> Links {
        let default = Links::default();
        let (reorder, by) = self.reorder.unwrap_or((0.0, None));
        Links {
            hops: self.hops,
            burst: self.burst,
            jitter: self.jitter.unwrap_or(default.jitter),
            reorder,
            reorder_by: by.unwrap_or(default.reorder_by),
            duplicate: self.duplicate.unwrap_or(0.0),
            bucket: self.bucket.unwrap_or(default.bucket),
            queue: self.queue.unwrap_or(default.queue),
            back: self.back.unwrap_or_default(),
            single: self.single.clone(),
            changes: self.changes.clone(),
            outages: self.outages.clone(),
            ..default
        }
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let names = Mode::ALL.map(Mode::name).join(", ");
    Mode::ALL.into_iter().find(|mode| mode.name() == text).ok_or(format!("one of {names}"))
}

fn rate(text: &str) -> Result<Bitrate, String> {
    units::rate(text).map(Bitrate::from_bps)
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    units::share(text)
        .ok()
        .filter(|&share| share < 1.0)
        .ok_or_else(|| format!("`{text}` is not a share from 0 to below 1"))
}

fn control(text: &str) -> Result<Control, String> {
    match text {
        "coded" => Ok(Control::Coded),
        "bbr3" => Ok(Control::Bbr3),
        "cubic" => Ok(Control::Cubic),
        other => units::rate(other)
            .map(|rate| Control::Fixed(rate / 8))
            .map_err(|_| "coded, bbr3, cubic or a rate".into()),
    }
}

fn reorder(text: &str) -> Result<(f64, Option<Duration>), String> {
    match text.split_once(',') {
        None => Ok((share(text)?, None)),
        Some((part, by)) => Ok((share(part)?, Some(units::duration(by)?))),
    }
}

/// A hop by its number from 1 on.
fn hop(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    number.ok_or_else(|| format!("`{text}` is not the number of a hop; the first is 1"))
}

fn set(into: &mut Override, text: &str) -> Result<(), String> {
    match text.split_once('=') {
        Some(("rate", value)) => into.rate = Some(rate(value)?),
        Some(("delay", value)) => into.delay = Some(units::duration(value)?),
        Some(("loss", value)) => into.loss = Some(share(value)?),
        _ => return Err(format!("`{text}` is none of rate=, delay= and loss=")),
    }
    Ok(())
}

fn values(text: &str) -> Result<Override, String> {
    let mut found = Override::default();
    text.split(',').try_for_each(|value| set(&mut found, value))?;
    Ok(found)
}

fn single(text: &str) -> Result<(usize, Override), String> {
    let (number, rest) = text.split_once(':').ok_or("write for instance 2:loss=0.1")?;
    Ok((hop(number)?, values(rest)?))
}

fn change(text: &str) -> Result<Change, String> {
    let (at, rest) = text.split_once(':').ok_or("write for instance 10s:loss=0.2")?;
    let mut found = Change { at: units::duration(at)?, hop: None, to: Override::default() };
    for value in rest.split(',') {
        match value.strip_prefix("hop=") {
            Some(number) => found.hop = Some(hop(number)?),
            None => set(&mut found.to, value)?,
        }
    }
    Ok(found)
}

fn outage(text: &str) -> Result<Outage, String> {
    let mut parts = text.splitn(3, ',');
    let mut time = || units::duration(parts.next().unwrap_or_default());
    let (from, length) = (time()?, time()?);
    Ok(Outage { from, length, hop: parts.next().map(hop).transpose()? })
}

fn beside(text: &str) -> Result<(u8, u8), String> {
    let wrong = || format!("`{text}` is not two numbers such as 2,1");
    let (ours, cubic) = text.split_once(',').ok_or_else(wrong)?;
    Ok((ours.parse().map_err(|_| wrong())?, cubic.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_tc_writes_them() {
        assert_eq!(rate("100mbit"), Ok(Bitrate::from_mbps(100)));
        assert_eq!(rate("1gbit"), Ok(Bitrate::from_gbps(1)));
        assert_eq!(rate("2.5G"), Ok(Bitrate::from_mbps(2_500)));
        assert!(rate("fast").is_err() && share("1").is_err() && mode("tcp").is_err());
    }

    #[test]
    fn hops_changes_and_outages_are_read() {
        let ten = Duration::from_secs(10);
        let slow = Override { rate: Some(Bitrate::from_mbps(50)), ..Override::default() };
        assert_eq!(single("2:rate=50mbit"), Ok((1, slow)));
        assert_eq!(change("10s:hop=2,rate=50mbit"), Ok(Change { at: ten, hop: Some(1), to: slow }));
        let all = Outage { from: ten, length: Duration::from_secs(5), hop: None };
        assert_eq!(outage("10s,5s"), Ok(all));
        assert_eq!(outage("10s,5s,1"), Ok(Outage { hop: Some(0), ..all }));
        assert_eq!(control("90mbit"), Ok(Control::Fixed(11_250_000)));
        assert_eq!(reorder("0.01,5ms"), Ok((0.01, Some(Duration::from_millis(5)))));
        let wrong = [single("0:loss=0.1").is_err(), single("loss=0.1").is_err()];
        assert_eq!(wrong, [true; 2]);
        assert!(change("10s:speed=2").is_err() && outage("10s").is_err() && beside("2").is_err());
    }
}
