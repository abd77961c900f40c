//! What the fuzz target `ftcp_frames` runs, and its seeds as ordinary tests.

use super::{Config, Engine, Error, Event, Message, Resend};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Reads `data` behind its first two bytes as a peer's stream, in chunks that those say and in one piece, under every policy.
///
/// # Panics
/// When the two disagree, or an engine keeps reading behind a failure.
pub fn frames(data: &[u8]) {
    let Some(([chunk, policy], stream)) = data.split_first_chunk() else { return };
    let resend = [Resend::Never, Resend::Unacked, Resend::UntilReply][usize::from(*policy) % 3];
    let chunk = usize::from(*chunk).max(1);
    let config = Arc::new(Config { resend, max_payload: 1024, ..Config::default() });
    let whole = read(&config, std::iter::once(stream));
    let chunked = read(&config, stream.chunks(chunk));
    assert_eq!(whole, chunked, "the chunking changed what was read");
}

fn read<'a>(
    config: &Arc<Config>,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Message>, Option<Error>) {
    let now = Instant::now();
    let mut engine = Engine::new(config.clone());
    engine.handle_open(now);
    let (mut messages, mut failure) = (Vec::new(), None);
    for chunk in chunks {
        engine.handle_input(now, Bytes::copy_from_slice(chunk));
        while let Some(event) = engine.poll_event() {
            assert_eq!(failure, None, "an event behind the failure");
            match event {
                Event::Message(message) => messages.push(message),
                Event::WireFailed(error) => failure = Some(error),
                Event::Acknowledged { .. } => panic!("nothing was sent"),
            }
        }
    }
    engine.handle_lost(now);
    (messages, failure)
}
