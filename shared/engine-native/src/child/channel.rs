//! The engine process's end of the socket.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::protocol::{Command, Event, GREETING, command, event, frame};

/// What a worker hands over before the first message.
pub(super) struct Files {
    pub(super) arena: OwnedFd,
    pub(super) model: OwnedFd,
}

/// Commands, in order.
pub(super) struct Incoming {
    socket: UnixStream,
    buffer: BytesMut,
}

/// Where events go. Clones are the same socket; each event goes out whole.
#[derive(Clone)]
pub(super) struct Outgoing(Arc<Mutex<(UnixStream, BytesMut)>>);

/// Takes over the standard input.
pub(super) fn open() -> io::Result<(Incoming, Outgoing, Files)> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let files = greeted(&socket)?;
    let outgoing = Outgoing(Arc::new(Mutex::new((socket.try_clone()?, BytesMut::new()))));
    Ok((Incoming { socket, buffer: BytesMut::with_capacity(16 << 10) }, outgoing, files))
}

fn greeted(socket: &UnixStream) -> io::Result<Files> {
    let mut greeting = [0; GREETING.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut greeting)];
    rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    let mut files = files.into_iter();
    match (files.next(), files.next()) {
        (Some(arena), Some(model)) if greeting == GREETING => Ok(Files { arena, model }),
        _ => Err(io::Error::other("there was no greeting")),
    }
}

impl Incoming {
    /// The next command; `None` at the end of the connection, which nonsense is, too.
    pub(super) fn next(&mut self) -> Option<command::Body> {
        loop {
            match frame::read::<Command>(&mut self.buffer, frame::MAX_COMMAND_BYTES) {
                Ok(Some(command)) => match command.body {
                    Some(body) => return Some(body),
                    None => continue,
                },
                Ok(None) => {}
                Err(_) => return None,
            }
            let mut part = [0; 16 << 10];
            match self.socket.read(&mut part) {
                Ok(0) => return None,
                Ok(length) => self.buffer.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Outgoing {
    /// Sends an event. It blocks while the worker does not read.
    pub(super) fn send(&self, body: event::Body) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, buffer) = &mut *guard;
        buffer.clear();
        frame::write(&Event { body: Some(body) }, buffer);
        // When the worker is gone the reader of commands sees it, too, and ends the process.
        let _ = socket.write_all(buffer);
    }
}
