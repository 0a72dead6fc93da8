//! What a listener grants a client, and no more. The defaults are the product's promises: raising a rate is a matter of
//! hardware, raising a size or a time-out is a matter of security.

use super::{
    section::section,
    units::{Size, Span},
};

section!(
    /// Limits of a gRPC listener.
    Limits, LimitsFragment {
        max_connections: usize = 60_000, "connections at once; one more is closed at once";
        max_handshakes: usize = 256, "TLS handshakes at once; one more waits to be accepted";
        accepts_per_second: u32 = 300, "connections accepted each second, on average and at once";
        per_address: usize = 0, "unfinished TLS handshakes of one address; 0 = no limit (a whole company can sit behind one)";
        per_device: usize = 4, "connections of one device; one more closes the oldest; 0 = no limit";
        handshake_timeout: Span = Span::seconds(10), "for the TLS handshake";
        first_request_timeout: Span = Span::seconds(10), "from the end of the handshake to the first request";
        max_concurrent_streams: u32 = 8, "HTTP/2 streams a connection may have open";
        max_pending_reset_streams: usize = 20, "streams a client may reset before they were accepted (CVE-2023-44487)";
        max_local_error_reset_streams: usize = 64, "streams reset for a client's errors before its connection is closed (RUSTSEC-2024-0003)";
        max_header_list: Size = Size::kib(8), "size of all headers of a request";
        stream_window: Size = Size::kib(64), "HTTP/2 flow-control window of a stream";
        connection_window: Size = Size::kib(256), "HTTP/2 flow-control window of a connection";
        max_frame: Size = Size::kib(16), "largest HTTP/2 frame; the protocol allows 16KiB to 16MiB less a byte";
        max_decoding: Size = Size::kib(256), "largest message accepted";
        max_encoding: Size = Size::kib(256), "largest message sent";
        keepalive_interval: Span = Span::seconds(60), "between HTTP/2 pings to a quiet client; \"0s\" = none";
        keepalive_timeout: Span = Span::seconds(20), "for the answer to a ping";
        unary_timeout: Span = Span::seconds(15), "from a request to its response headers; streams live on";
        concurrency_per_connection: usize = 8, "requests of one connection worked on at once; one more is refused";
        device_messages_per_minute: u32 = 60, "requests of one device each minute, on average; 0 = no limit";
        device_burst: u32 = 300, "requests of one device at once";
    }
);

impl Limits {
    /// Defaults of the enrolment listener: anyone can reach it, and one call is all it is for.
    #[must_use]
    pub fn enrollment() -> Self {
        Self {
            max_connections: 500,
            max_handshakes: 32,
            accepts_per_second: 20,
            handshake_timeout: Span::seconds(5),
            first_request_timeout: Span::seconds(5),
            max_concurrent_streams: 1,
            max_pending_reset_streams: 10,
            max_local_error_reset_streams: 16,
            max_header_list: Size::kib(4),
            connection_window: Size::kib(64),
            max_decoding: Size::kib(32),
            max_encoding: Size::kib(32),
            keepalive_interval: Span::default(),
            concurrency_per_connection: 1,
            device_messages_per_minute: 0,
            ..Self::default()
        }
    }
}

section!(
    /// Limits of the operators' HTTPS listener.
    OperatorLimits, OperatorLimitsFragment {
        max_connections: usize = 1_000, "connections at once; one more is closed at once";
        max_handshakes: usize = 64, "TLS handshakes at once; one more waits to be accepted";
        accepts_per_second: u32 = 100, "connections accepted each second, on average and at once";
        per_address: usize = 0, "unfinished TLS handshakes of one address; 0 = no limit";
        handshake_timeout: Span = Span::seconds(10), "for the TLS handshake";
        first_request_timeout: Span = Span::seconds(10), "from the end of the handshake to the first request";
        max_concurrent_streams: u32 = 64, "HTTP/2 streams a connection may have open";
        max_pending_reset_streams: usize = 20, "streams a client may reset before they were accepted (CVE-2023-44487)";
        max_local_error_reset_streams: usize = 64, "streams reset for a client's errors before its connection is closed (RUSTSEC-2024-0003)";
        max_header_list: Size = Size::kib(16), "size of all headers of a request";
        keepalive_interval: Span = Span::seconds(60), "between HTTP/2 pings to a quiet client; \"0s\" = none";
        keepalive_timeout: Span = Span::seconds(20), "for the answer to a ping";
        max_body: Size = Size::kib(256), "largest request body";
        request_timeout: Span = Span::seconds(30), "from a request to its response headers";
    }
);
