//! Compression changes how much travels, and nothing else.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::pair::Pair;
use crate::bats::flow::{FlowConfig, Framing};
use crate::bats::toy::ToyLink;

fn text(length: usize) -> Bytes {
    b"over hill, over dale, thorough bush, thorough brier; "
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

/// Sends this and gets it back; what saved how much, and how many packets left.
fn exchange(config: FlowConfig, messages: &[Bytes]) -> (u64, u64, u64) {
    let mut pair = Pair::new(config, ToyLink::new(50, 10, 0.05), 3);
    pair.server = crate::bats::flow::Flow::server(
        FlowConfig { compress: config.compress, ..FlowConfig::default() },
        pair.base,
    )
    .unwrap();
    let end = pair.base + Duration::from_secs(20);
    let (mut sent, mut came, mut back) = (0, 0, Vec::new());
    while pair.step(end) && back.len() < messages.len() {
        if sent < messages.len() && pair.client.send(messages[sent].clone()).is_ok() {
            sent += 1;
        }
        while let Some(data) = pair.server.recv() {
            assert_eq!(data, messages[came]);
            came += 1;
            pair.server.send(data).unwrap();
        }
        back.extend(std::iter::from_fn(|| pair.client.recv()));
    }
    assert_eq!(back, messages);
    let (client, server) = (pair.client.stats(), pair.server.stats());
    (client.saved_bytes, server.saved_bytes, client.packets_sent)
}

#[test]
fn messages_are_compressed_by_those_who_decide_to() {
    let noise: Bytes = (0..9_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let messages = [text(0), text(1), text(60_000), noise, text(200_000)];
    let reliable = FlowConfig { framing: Framing::Messages, ..FlowConfig::default() };
    for config in [reliable, FlowConfig::brctp()] {
        let plain = exchange(config, &messages);
        let packed = exchange(FlowConfig { compress: true, ..config }, &messages);
        assert_eq!((plain.0, plain.1), (0, 0));
        assert!(packed.0 > 250_000 && packed.1 > 250_000, "{packed:?}");
        assert!(packed.2 < plain.2 / 2, "{packed:?} {plain:?}");
    }
}

#[test]
fn single_messages_are_compressed_too() {
    let config = FlowConfig { compress: true, ..FlowConfig::btp() };
    let mut pair = Pair::new(config, ToyLink::new(50, 10, 0.0), 5);
    let end = pair.base + Duration::from_secs(5);
    let (mut sent, mut came) = (0, 0);
    while pair.step(end) && came < 20 {
        if sent < 20 && pair.client.send(text(3_000)).is_ok() {
            sent += 1;
        }
        while let Some(data) = pair.server.recv() {
            assert_eq!(data, text(3_000));
            came += 1;
        }
    }
    assert_eq!(came, 20);
    assert!(pair.client.stats().saved_bytes > 20 * 2_500);
}

#[test]
fn a_compressed_stream_has_the_same_bytes() {
    let config = FlowConfig { compress: true, ..FlowConfig::default() };
    let mut pair = Pair::new(config, ToyLink::new(50, 10, 0.1), 7);
    let whole = text(1_000_000);
    let (mut left, mut came) = (whole.clone(), BytesMut::new());
    let end = pair.base + Duration::from_secs(20);
    while pair.step(end) && !pair.client.is_closed() {
        if !left.is_empty() {
            pair.client.write_bytes(&mut left).unwrap();
            if left.is_empty() {
                pair.client.close(pair.now);
            }
        }
        while let Some(data) = pair.server.read() {
            came.extend_from_slice(&data);
        }
        if came.len() == whole.len() {
            pair.server.finish();
        }
    }
    assert_eq!(came, whole);
    let stats = pair.client.stats();
    assert!(stats.saved_bytes > 900_000 && stats.packets_sent < 100, "{stats:?}");
}
