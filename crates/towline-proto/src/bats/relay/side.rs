//! What a relay and one neighbour say to each other beside packets.

use std::time::Instant;

use bytes::Bytes;

use super::direction::Outgoing;
use crate::bats::flow::{HOP_WINDOW, Reporting, UNKNOWN_PATH};
use crate::bats::hop::{Fate, Hop, Outcome, Packet, Path};
use crate::bats::outbox::Outbox;
use crate::bats::parts::Pieces;
use crate::bats::wire::Credit;

/// What a tag names, in its two top bits.
const TAG_SHIFT: u32 = 62;
const TAG_NUMBER: u64 = (1 << TAG_SHIFT) - 1;
const PACKET: u64 = 0;
const REPORT: u64 = 1;
const CREDIT: u64 = 2;
const NOTHING: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Packet(u64),
    Other,
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) path: Path,
    pub(super) pieces: Pieces,
    outbox: Outbox,
    /// The latest report from the other side, on its way here.
    report: Option<(u64, Bytes)>,
    reporting: Reporting,
    crediting: Reporting,
    credit: Credit,
    /// What the neighbour granted.
    last_credit: u64,
    limit: Option<u64>,
    /// The longest packet that fits the path behind the neighbour.
    pub(super) max_packet: usize,
    pub(super) room_left: bool,
}

impl Side {
    pub(super) fn new(now: Instant) -> Side {
        let mut crediting = Reporting::default();
        crediting.on_urgent(now);
        Side {
            path: UNKNOWN_PATH,
            pieces: Pieces::default(),
            outbox: Outbox::default(),
            report: None,
            reporting: Reporting::default(),
            crediting,
            credit: Credit::default(),
            last_credit: 0,
            limit: None,
            max_packet: usize::MAX,
            room_left: false,
        }
    }

    pub(super) fn on_hop_changed(&mut self, now: Instant) {
        (self.last_credit, self.max_packet, self.limit) = (0, usize::MAX, None);
        self.path = UNKNOWN_PATH;
        self.crediting.on_urgent(now);
        if self.report.is_some() {
            self.reporting.on_urgent(now);
        }
    }

    /// A report from the other side; the latest one counts.
    pub(super) fn on_report(&mut self, now: Instant, serial: u64, data: Bytes) {
        if self.report.as_ref().is_none_or(|(latest, _)| serial > *latest) {
            self.report = Some((serial, data));
            self.reporting.on_urgent(now);
        }
    }

    pub(super) fn on_credit(&mut self, now: Instant, credit: &Credit) {
        if credit.serial > self.last_credit {
            self.last_credit = credit.serial;
            if credit.limit > 0 {
                self.limit = self.limit.max(Some(credit.limit));
            }
            let max_packet = usize::try_from(credit.max_packet).unwrap_or(usize::MAX).max(64);
            if max_packet != self.max_packet {
                self.max_packet = max_packet;
                self.crediting.on_change(now, &self.path);
            }
        }
    }

    /// The first symbol that the neighbour cannot take, when `first` is the first that goes there: it may be any, on a new path.
    pub(super) fn limit(&self, first: u64) -> u64 {
        self.limit.unwrap_or(first.saturating_add(HOP_WINDOW))
    }

    pub(super) fn on_fate(&mut self, now: Instant, fate: Fate) -> Tag {
        let (kind, number) = (fate.tag >> TAG_SHIFT, fate.tag & TAG_NUMBER);
        match kind {
            PACKET => return Tag::Packet(number),
            REPORT if fate.outcome == Outcome::Lost => self.reporting.on_lost(now, number),
            CREDIT if fate.outcome == Outcome::Lost => self.crediting.on_lost(now, number),
            _ => {}
        }
        Tag::Other
    }

    /// Sends the latest report and, when it says something new, the credit.
    pub(super) fn transmit<H: Hop>(
        &mut self,
        now: Instant,
        hop: &mut H,
        limit: u64,
        max_packet: usize,
    ) {
        let told = self.credit;
        // Each packet of credit saved is one less on the way back; but nobody should wait for it.
        if limit >= told.limit + 32 || max_packet as u64 != told.max_packet {
            self.crediting.on_change(now, &self.path);
        }
        if self.crediting.is_due(now) {
            self.credit.serial += 1;
            self.credit.limit = limit.max(told.limit);
            self.credit.max_packet = max_packet as u64;
            self.crediting.on_sent(self.credit.serial);
            let tag = CREDIT << TAG_SHIFT | self.credit.serial;
            hop.send(now, Packet { data: self.credit.encode(), tag, urgent: true });
        }
        if let Some((serial, data)) = &self.report
            && self.reporting.is_due(now)
        {
            let tag = REPORT << TAG_SHIFT | (serial & TAG_NUMBER);
            self.reporting.on_sent(serial & TAG_NUMBER);
            let packet = Packet { data: data.clone(), tag, urgent: true };
            if data.len() <= hop.max_packet() {
                hop.send(now, packet);
            }
        }
    }

    /// Sends a packet; in how many pieces.
    pub(super) fn send<H: Hop>(&mut self, now: Instant, hop: &mut H, out: Outgoing) -> u8 {
        let tag = match out.place {
            Some(place) => PACKET << TAG_SHIFT | (place & TAG_NUMBER),
            None => NOTHING << TAG_SHIFT,
        };
        self.outbox.send(now, hop, Packet { data: out.data, tag, urgent: out.urgent })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.reporting.poll_timeout(), self.crediting.poll_timeout()].into_iter().flatten().min()
    }
}
