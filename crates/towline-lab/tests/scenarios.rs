//! Each scenario once, in short: it runs, and its figures are where they have to be on any day.

use std::time::Duration;

use towline_lab::{Cell, Change, Changes, Links, Load, Mode, Outage, Override, Report, Scenario};
use towline_lab::{LabError, run};
use towline_sim::Bitrate;

/// A slow link and a short run, so that a test takes a moment.
fn short(losses: &[f64]) -> Changes {
    Changes {
        rate: Some(Bitrate::from_mbps(20)),
        losses: losses.to_vec(),
        duration: Some(Duration::from_secs(6)),
        warmup: Some(Duration::from_secs(2)),
        ..Changes::default()
    }
}

fn reports(scenario: Scenario, changes: &Changes) -> Vec<Report> {
    let cells = scenario.cells(changes);
    cells.iter().map(|cell| run(cell).unwrap_or_else(|error| panic!("{cell:?}: {error}"))).collect()
}

#[test]
fn a_chain_with_relays_carries_its_share_and_peers_run_beside_it() {
    let links = Links { hops: 2, ..Links::default() };
    let peers = Some(vec![Mode::EndCode, Mode::QuicCubic, Mode::QuicBbr, Mode::Kcp]);
    let reports = reports(Scenario::Chain, &Changes { links, peers, ..short(&[0.02]) });
    assert_eq!(reports.len(), 5);
    for report in &reports {
        let name = report.cell.mode.name();
        assert!(report.steady > 0.0 && report.steady_ratio() < 1.01, "{name}: {report:?}");
        assert!(report.wire >= report.goodput, "{name}: {report:?}");
        assert_eq!(report.cell.peer, report.cell.mode != Mode::Brtp);
    }
    assert!(reports[0].steady_ratio() > 0.8, "{:?}", reports[0]);
}

#[test]
fn messages_come_back_no_sooner_than_the_links_allow() {
    let links = Links { hops: 2, ..Links::default() };
    for mode in [Mode::Btp, Mode::Brtp, Mode::QuicCubic, Mode::Kcp] {
        let changes = Changes { mode: Some(mode), links: links.clone(), ..short(&[0.02]) };
        let report = &reports(Scenario::Rtt, &changes)[0];
        let rtt = report.rtt.unwrap_or_else(|| panic!("{mode:?} brought nothing back"));
        assert!(rtt.p50 >= Duration::from_millis(40) && rtt.p50 <= rtt.p90, "{mode:?}: {rtt:?}");
        assert!(rtt.p50 < Duration::from_millis(70), "{mode:?}: {rtt:?}");
        assert!(rtt.p99 <= rtt.max && rtt.p90 <= rtt.p99, "{mode:?}: {rtt:?}");
        let most = if mode == Mode::Btp { 0.05 } else { 0.0 };
        assert!(report.residual.is_some_and(|lost| (0.0..=most).contains(&lost)), "{report:?}");
    }
}

#[test]
fn btp_leaves_less_lost_than_the_link_loses() {
    let send_rate = Some(Bitrate::from_kbps(500));
    let reports = reports(Scenario::BtpResidual, &Changes { send_rate, ..short(&[0.2]) });
    let residual = reports[0].residual.expect("messages were sent");
    assert!(residual < 0.05, "{residual}");
}

#[test]
fn flows_beside_each_other_have_shares() {
    let changes = Changes { duration: Some(Duration::from_secs(12)), ..short(&[]) };
    let reports = reports(Scenario::Fairness, &Changes { warmup: None, ..changes });
    let shares: Vec<usize> = reports.iter().map(|report| report.shares.len()).collect();
    assert_eq!(shares, [2, 4, 2]);
    for report in &reports {
        let index = report.jain().expect("there are flows of ours");
        assert!(index > 0.0 && index <= 1.0 + 1e-9, "{report:?}");
        let sum: f64 = report.shares.iter().sum();
        assert!((sum - report.steady).abs() < 1.0, "{report:?}");
    }
}

#[test]
fn an_object_is_transferred_and_timed() {
    for mode in [Mode::Brctp, Mode::Brtp, Mode::QuicCubic, Mode::Kcp] {
        let changes = Changes { mode: Some(mode), object: Some(1_000_000), ..short(&[0.05]) };
        let changes = Changes { duration: Some(Duration::from_secs(60)), ..changes };
        let report = &reports(Scenario::Chain, &changes)[0];
        let took = report.transfer.unwrap_or_else(|| panic!("{mode:?} did not end"));
        assert!(took >= Duration::from_secs_f64(8.0 / report.limit * 1e6), "{mode:?}: {took:?}");
        assert!(report.ratio() <= 1.0, "{mode:?}: {report:?}");
    }
}

#[test]
fn unequal_hops_changes_and_outages_are_felt() {
    let slow = Override { rate: Some(Bitrate::from_mbps(8)), ..Override::default() };
    let cell = |links: Links| Cell {
        links: Links { rate: Bitrate::from_mbps(20), ..links },
        duration: Duration::from_secs(6),
        warmup: Duration::from_secs(2),
        ..Cell::default()
    };
    let steady = |links: Links| run(&cell(links)).map(|report| report.steady).unwrap();
    let plain = steady(Links::default());
    let slower = steady(Links { hops: 2, single: vec![(1, slow)], ..Links::default() });
    assert!(slower < 8e6 && slower > 5e6, "{slower}");
    let change = Change { at: Duration::from_secs(3), hop: None, to: slow };
    let changed = steady(Links { changes: vec![change], ..Links::default() });
    assert!(changed < 0.8 * plain, "{changed} of {plain}");
    let (from, length) = (Duration::from_secs(3), Duration::from_secs(2));
    let outage = Outage { from, length, hop: None };
    let cut = steady(Links { outages: vec![outage], ..Links::default() });
    assert!(cut < 0.75 * plain && cut > 0.0, "{cut} of {plain}");
    let jitter = Links {
        jitter: Duration::from_millis(2),
        reorder: 0.01,
        duplicate: 0.01,
        burst: 4.0,
        loss: 0.05,
        ..Links::default()
    };
    assert!(steady(jitter) > 0.4 * plain);
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_one_others() {
    let figures = |seed| {
        let changes = Changes { seed: Some(seed), ..short(&[0.05]) };
        let report = &reports(Scenario::Chain, &changes)[0];
        (report.goodput.to_bits(), report.wire.to_bits())
    };
    assert_eq!(figures(3), figures(3));
    assert_ne!(figures(3), figures(4));
}

#[test]
fn cells_that_make_no_sense_are_refused() {
    let refused = |cell: Cell| matches!(run(&cell), Err(LabError::Parameter(_)));
    assert!(refused(Cell { flows: 0, ..Cell::default() }));
    assert!(refused(Cell { warmup: Duration::from_secs(30), ..Cell::default() }));
    assert!(refused(Cell { load: Load::Object { bytes: 0 }, ..Cell::default() }));
    assert!(refused(Cell { load: Load::Echo { size: 8, per_second: 1.0 }, ..Cell::default() }));
    assert!(refused(Cell { batch: Some(7), ..Cell::default() }));
    let links = Links { hops: 2, ..Links::default() };
    assert!(refused(Cell { mode: Mode::Raw, links, ..Cell::default() }));
}
