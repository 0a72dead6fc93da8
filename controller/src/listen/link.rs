//! The byte stream of one connection, as tonic and hyper get it: TLS, the facts about it, and its place under the limits.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::conn::{Conn, Entry};

/// An accepted connection. Dropping it frees its place.
#[derive(Debug)]
pub struct Link {
    // Boxed: it is moved through several futures, each of which would hold room for it.
    tls: Box<TlsStream<TcpStream>>,
    conn: Arc<Conn>,
    _entry: Entry,
    _place: OwnedSemaphorePermit,
}

impl Link {
    pub(super) fn new(tls: TlsStream<TcpStream>, conn: Arc<Conn>, entry: Entry, place: OwnedSemaphorePermit) -> Self {
        Self { tls: Box::new(tls), conn, _entry: entry, _place: place }
    }

    #[must_use]
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// Every poll registers the task first, so that a kill between the check and the wait still wakes it.
    fn alive(&self, cx: &Context<'_>) -> io::Result<()> {
        self.conn.watch(cx.waker());
        if self.conn.killed() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "connection was cut"));
        }
        Ok(())
    }
}

impl Connected for Link {
    type ConnectInfo = Arc<Conn>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.conn)
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut *self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut *self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut *self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut *self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut *self.tls).poll_shutdown(cx)
    }
}
