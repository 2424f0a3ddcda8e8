//! A receiver of security event tokens by push (RFC 8935) on easyssf, with the settings that it has by itself.
//!
//!     receiver PORT ISSUER JWKS_URL AUDIENCE [ALGORITHM]      with RECEIVER_TOKEN in the environment
//!
//! Says the events of each token that it takes, one on a line. Without an algorithm it takes what it takes by itself.
//!
//! Its own HTTP client speaks TLS and takes a minute more to build: keys come over a plain one.

use std::env::{args, var};

use easyssf_receiver::event::SsfEventContext;
use easyssf_receiver::http::{SsfHttpClient, SsfHttpRequest, SsfHttpResponse};
use easyssf_receiver::{config::SsfReceiverConfig, BoxError, SsfReceiver};
use easyssf_receiver_axum::push_router_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Plain;

#[async_trait::async_trait]
impl SsfHttpClient for Plain {
    async fn execute(&self, request: SsfHttpRequest) -> Result<SsfHttpResponse, BoxError> {
        let host = request.url.host_str().ok_or("no host")?;
        let port = request.url.port_or_known_default().ok_or("no port")?;
        let mut stream = TcpStream::connect((host, port)).await?;
        let head = format!("GET {} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n", request.url.path());
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        Ok(SsfHttpResponse::new(status, body))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let mut arguments = args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let (port, issuer, jwks_url, audience) = (next()?, next()?, next()?, next()?);
    let mut config = SsfReceiverConfig::for_transmitter(&issuer);
    config.transmitter.transmitter_jwks_url = Some(jwks_url.parse()?);
    config.transmitter.expected_audience = Some(audience);
    config.transmitter.push.expected_auth_header = Some(format!("Bearer {}", var("RECEIVER_TOKEN")?));
    config.transmitter.set_validation.accepted_algorithms = arguments.collect();
    let taken = |context: SsfEventContext| async move {
        for event in context.event_token().events().keys() {
            println!("{event}");
        }
        Ok(())
    };
    let receiver = SsfReceiver::builder(config).http_client(Plain).handler(taken).build()?;
    receiver.start();
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    Ok(axum::serve(listener, push_router_for(&receiver)).await?)
}
