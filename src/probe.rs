//! A question to a TCP server and a look at its answer.

mod tls;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use tls::{Trust, secure};

/// Most that is read of an answer.
const ANSWER_BYTES: usize = 4096;

/// Why a server does not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The answer itself is not repeated: it may hold secrets.
    #[error("another answer than expected")]
    Unexpected,
}

/// Sends something and reads until the answer contains what is expected.
///
/// # Errors
/// [`ProbeError`]. There is no time limit of its own.
pub async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    send: &[u8],
    expect: &[u8],
) -> Result<(), ProbeError> {
    stream.write_all(send).await?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    loop {
        if answer.windows(expect.len().max(1)).any(|window| window == expect) {
            return Ok(());
        }
        let read = stream.read_buf(&mut answer).await?;
        if read == 0 || answer.len() >= ANSWER_BYTES {
            return Err(ProbeError::Unexpected);
        }
    }
}
