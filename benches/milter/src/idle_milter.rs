//! A milter that does nothing: what Postfix itself spends on having one.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

/// `SMFIF_ADDHDRS`: any milter must ask for something.
const ACTIONS: u32 = 0x01;
/// All `SMFIP_NR_*`: nothing is answered but the end of a message.
const PROTOCOL: u32 = 0xf_f080;
/// `SMFIP_NR_DATA`, which is left out where DATA is answered.
const NO_REPLY_DATA: u32 = 0x1_0000;

/// How much of a message it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The envelope alone: it lets the message go at DATA.
    Data,
    /// All of it.
    End,
}

/// Listens at `path` until the program ends and lets every message pass.
///
/// # Panics
/// When it cannot.
pub fn start(path: PathBuf, until: Until) {
    let listener = UnixListener::bind(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    open_to_all(&path);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream, until));
        }
    });
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).expect("mode of our own socket");
}

fn serve(stream: UnixStream, until: Until) -> io::Result<()> {
    let mut write = stream.try_clone()?;
    let mut read = BufReader::with_capacity(64 * 1024, stream);
    let mut payload = Vec::new();
    loop {
        let mut head = [0; 5];
        read.read_exact(&mut head)?;
        let [length @ .., code] = head;
        payload.resize((u32::from_be_bytes(length) as usize).saturating_sub(1), 0);
        read.read_exact(&mut payload)?;
        match code {
            b'O' => {
                let protocol = if until == Until::Data { PROTOCOL & !NO_REPLY_DATA } else { PROTOCOL };
                let numbers = [13_u32, 6, ACTIONS, protocol].map(u32::to_be_bytes);
                let [length, version, actions, protocol] = numbers;
                write.write_all(&[&length[..], b"O", &version, &actions, &protocol].concat())?;
            }
            b'T' if until == Until::Data => write.write_all(b"\0\0\0\x01a")?,
            b'E' => write.write_all(b"\0\0\0\x01c")?,
            b'Q' => return Ok(()),
            _ => {}
        }
    }
}
