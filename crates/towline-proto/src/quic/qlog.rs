//! qlog traces (draft-ietf-quic-qlog-main-schema, JSON text sequences), written by the engine to where the application says.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;

#[cfg(feature = "qlog")]
pub(super) use self::factory::Factory;
use super::types::Side;

/// Where traces go. Called on the endpoint's thread; the writers should not block.
pub trait QlogSink: fmt::Debug + Send + Sync {
    /// A writer for the trace of one connection, or none for no trace. `original_dcid` is what the client first called the server; traces are named after it.
    fn open(
        &self,
        side: Side,
        remote: SocketAddr,
        original_dcid: &[u8],
    ) -> Option<Box<dyn Write + Send + Sync>>;
}

/// The engine's side, which it has with its own feature only.
#[cfg(feature = "qlog")]
mod factory {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Instant;

    use noq_proto as engine;

    use super::QlogSink;
    use crate::quic::types::Side;

    pub(in crate::quic) struct Factory(pub(in crate::quic) Arc<dyn QlogSink>);

    impl engine::QlogFactory for Factory {
        fn for_connection(
            &self,
            side: engine::Side,
            remote: SocketAddr,
            initial_dst_cid: engine::ConnectionId,
            now: Instant,
        ) -> Option<engine::QlogConfig> {
            let side = if side.is_client() { Side::Client } else { Side::Server };
            let mut config =
                engine::QlogConfig::new(self.0.open(side, remote, &initial_dst_cid)?);
            config.title(Some("towline".to_owned())).start_time(now);
            Some(config)
        }
    }
}
