//! The crates, each as its own examples write an echo server.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;

use futures_util::{SinkExt, StreamExt};

use crate::{listen, raw};

pub fn tungstenite(tell: Sender<SocketAddr>) {
    let listener = listen(&tell);
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let mut socket = tungstenite::accept(stream).expect("a handshake");
    while let Ok(message) = socket.read() {
        if (message.is_binary() || message.is_text()) && socket.send(message).is_err() {
            break;
        }
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.expect("a runtime").block_on(work);
}

pub fn fastwebsockets(tell: Sender<SocketAddr>) {
    let listener = listen(&tell);
    use fastwebsockets::{Frame, OpCode, Role, WebSocket};
    let stream = raw::upgrade(&listener);
    stream.set_nonblocking(true).expect("non-blocking");
    block_on(async move {
        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
        let mut socket = WebSocket::after_handshake(stream, Role::Server);
        socket.set_writev(true);
        socket.set_auto_close(true);
        socket.set_auto_pong(true);
        while let Ok(frame) = socket.read_frame().await {
            match frame.opcode {
                OpCode::Close => break,
                OpCode::Text | OpCode::Binary => {
                    let echo = Frame::new(true, frame.opcode, None, frame.payload);
                    if socket.write_frame(echo).await.is_err() {
                        break;
                    }
                }
                _ => {}
            }
        }
    });
}

pub fn tokio_websockets(tell: Sender<SocketAddr>) {
    let listener = listen(&tell);
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    stream.set_nonblocking(true).expect("non-blocking");
    block_on(async move {
        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
        let accepted = tokio_websockets::ServerBuilder::new().accept(stream).await;
        let (_, mut socket) = accepted.expect("a handshake");
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_binary() || message.is_text()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
}
