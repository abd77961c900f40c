//! What a flow did, and what it dropped and why.

/// Counters of one flow since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowStats {
    /// Bytes accepted from the application.
    pub accepted_bytes: u64,
    /// Bytes that the peer acknowledged in order.
    pub acknowledged_bytes: u64,
    /// Bytes handed to the application.
    pub delivered_bytes: u64,
    /// Bytes that compression took away from what was accepted.
    pub saved_bytes: u64,
    /// Messages accepted and delivered.
    pub messages_sent: u64,
    /// Messages delivered.
    pub messages_delivered: u64,
    /// Symbols made.
    pub symbols: u64,
    /// Packets handed to the hop, reports and credits not counted.
    pub packets_sent: u64,
    /// Of these, answers to a loss on the first hop.
    pub hop_repairs: u64,
    /// Of these, answers to what the receiver lacks.
    pub end_repairs: u64,
    /// Of these, repeats that protect a thin flow or BTP.
    pub protective: u64,
    /// Of these, probes because nothing was heard.
    pub probes: u64,
    /// Repeats that the link's budget did not allow.
    pub protective_withheld: u64,
    /// Packets from the neighbour, of every kind.
    pub packets_received: u64,
    /// Packets that brought something new.
    pub innovative: u64,
    /// Symbols recovered from combinations.
    pub recovered: u64,
    /// Reports sent; in BRCTP, how often "done" was said.
    pub reports_sent: u64,
    /// BRCTP receivers that were given up.
    pub receivers_lost: u64,
    /// BRCTP generations that were begun anew, because what had come was no honest sender's.
    pub restarted: u64,
    /// What was dropped on arrival.
    pub dropped: Dropped,
}

/// Packets and messages dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Packets that told nothing new.
    pub redundant: u64,
    /// Packets that no version of this format has, or that fit no batch.
    pub malformed: u64,
    /// Packets beyond the receive window.
    pub beyond_window: u64,
    /// Packets that came before the flow's parameters and did not fit the queue for such.
    pub early: u64,
    /// Pieces whose other pieces never came.
    pub pieces: u64,
    /// Records or messages that did not open with the keys of both ends.
    pub forged: u64,
    /// BTP messages that came or became whole after their deadline.
    pub late_messages: u64,
    /// BTP messages whose deadline passed before they could leave.
    pub expired_messages: u64,
    /// BTP symbols that never arrived.
    pub lost_symbols: u64,
}
