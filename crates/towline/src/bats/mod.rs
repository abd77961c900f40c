//! Coded transport: what `bats://` addresses say, and relays that flows pass on their way.
//!
//! # Addresses
//!
//! `bats://host:port?option=value&...`: a session over a coded flow (BRTP), unless `mode` says something else. Options that are left out have their defaults.
//!
//! | option | values | meaning |
//! | --- | --- | --- |
//! | `mode` | `brtp` (default), `btp`, `brctp`, `transparent` | reliable; messages that are coded and never sent again; messages in order over a rateless code, whose receiver only says what it has whole; UDP as it is, which is also `udp://` |
//! | `via` | `host:port,host:port`, at most 15 | relays to pass, in this order |
//! | `relayed` | `on`, `off` (default) | the host is a relay that knows itself where the flow goes on; the far end's name is [`server_name`](crate::ConfigBuilder::server_name) |
//! | `control` | `coded` (default), `bbr3`, `cubic`, `fixed:RATE` | congestion control of the first hop; `fixed:20M` sends at that many bits per second whatever happens, for links that nobody else uses |
//! | `deadline` | 1 to 8000 | `btp`: how much older than the path's own delay a message may become, in milliseconds. Default 100 |
//! | `batch` | 8 (default of `btp`), 16 (default), 32 | packets of a batch |
//! | `interleave` | 1 to 64 | batches that are filled in turn, so that losses in a row hit different ones. Default 8, of `btp` 1; not in `brctp` |
//! | `hop_feedback` | `on` (default), `off` | whether each hop answers losses by itself |
//! | `compress` | `on`, `off` (default) | compress what this end sends, with LZ4, where it becomes shorter. Lengths then tell an observer how well it compresses |
//!
//! A listener's address has `mode`, `control` and `compress` only: the others are the client's to say. A listener compresses what it sends to clients that compress, too.
//!
//! Certificates and trust are as for `tls://`. With relays, the payload is sealed from end to end: the far end proves its name through them, and they need not be trusted.
//!
//! # Relays
//!
//! A [`Relay`] takes flows on a UDP port and carries each on over a hop of its own, to where its sender or the relay's settings say. It recodes
//! what it carries and has no key to it. `docs/bats.md` says how flows name their way, and what travels on a hop.

mod error;
mod options;
mod relay;
mod wire;

pub use towline_proto::bats::congestion::Control;
pub use towline_proto::bats::endpoint::{
    ConfigError, ConnectError, Ended, HopAddress, HopEnd, Pattern, RefusalKind, RelayEvent,
    RelayFlowId, RelaySettings, RelayTotals, RouteError,
};
pub use towline_proto::bats::flow::{Dropped, FlowStats};
pub use towline_proto::bats::quic_hop::HopConfig;
pub use towline_proto::bats::relay::{RelayConfig, RelayDropped, RelayStats};

pub use self::error::FlowError;
pub(crate) use self::options::{Options, check_listener, wire_of};
pub use self::relay::{Relay, RelayBuilder, RelayError};
pub(crate) use self::wire::{
    Agreed, BatsListener, BatsWire, Carried, Dialed, ListenerShared, NOWHERE, Target, agreed,
};
