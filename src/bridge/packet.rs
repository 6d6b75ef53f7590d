//! The payload of each message at NATS: a header of 36 bytes, then what its kind says.
//!
//! | bytes | what |
//! |---|---|
//! | 2 | `ib` |
//! | 1 | the version, 1 |
//! | 1 | the kind |
//! | 16 | the id of the server that it comes from |
//! | 8 | that server's incarnation, another one for each process |
//! | 8 | the sequence: a publication's number among all of its origin's, else 0 |
//!
//! Numbers are big-endian. Nothing is in NATS' own headers, which clients trim and fold.

/// The bytes of the header.
pub(crate) const HEADER_BYTES: usize = 36;
/// The version of the header and of all that follows it.
pub(crate) const VERSION: u8 = 1;
const MAGIC: [u8; 2] = *b"ib";

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    /// The server.
    pub(crate) id: [u8; 16],
    /// Its process.
    pub(crate) incarnation: u64,
}

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The whole frame of a publication, its length included.
    Publication = 1,
    /// What a server says about itself, in JSON.
    Presence = 2,
    /// Something of a tunnel.
    Tunnel = 3,
}

/// A packet, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// What the body is.
    pub(crate) kind: Kind,
    /// Who sent it.
    pub(crate) origin: Origin,
    /// The number of a publication, from 1.
    pub(crate) sequence: u64,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// Why a payload is no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketError {
    /// It is not the bridge's at all.
    Foreign,
    /// It is a packet of another version, perhaps from this server.
    Version {
        /// The version.
        version: u8,
        /// The server, where the header is as long as ours.
        id: Option<[u8; 16]>,
    },
}

impl<'a> Packet<'a> {
    /// The bytes of a packet.
    pub(crate) fn encode(kind: Kind, origin: Origin, sequence: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, kind as u8]);
        bytes.extend_from_slice(&origin.id);
        bytes.extend_from_slice(&origin.incarnation.to_be_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// If it is none, or one of another version.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let mut reader = Reader(bytes);
        if reader.array() != Some(MAGIC) {
            return Err(PacketError::Foreign);
        }
        let Some([version, kind]) = reader.array() else { return Err(PacketError::Foreign) };
        if version != VERSION {
            return Err(PacketError::Version { version, id: reader.array() });
        }
        let kind = match kind {
            1 => Kind::Publication,
            2 => Kind::Presence,
            3 => Kind::Tunnel,
            _ => return Err(PacketError::Foreign),
        };
        let header = || Some((reader.array()?, reader.u64()?, reader.u64()?, reader.0));
        let Some((id, incarnation, sequence, body)) = { header }() else {
            return Err(PacketError::Foreign);
        };
        Ok(Self { kind, origin: Origin { id, incarnation }, sequence, body })
    }
}

/// Takes numbers and pieces from the front of bytes, or gives up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// Takes so many bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    /// Takes a number.
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a text behind its length of two bytes.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Origin = Origin { id: [7; 16], incarnation: 9 };

    #[test]
    fn a_packet_comes_back() {
        for kind in [Kind::Publication, Kind::Presence, Kind::Tunnel] {
            let bytes = Packet::encode(kind, ORIGIN, 3, b"body");
            assert_eq!(bytes.len(), HEADER_BYTES + 4);
            let packet = Packet { kind, origin: ORIGIN, sequence: 3, body: b"body" };
            assert_eq!(Packet::decode(&bytes), Ok(packet));
        }
    }

    #[test]
    fn another_version_is_told_with_its_server() {
        let mut bytes = Packet::encode(Kind::Presence, ORIGIN, 0, b"");
        bytes[2] = 2;
        let error = PacketError::Version { version: 2, id: Some([7; 16]) };
        assert_eq!(Packet::decode(&bytes), Err(error));
        bytes.truncate(6);
        assert_eq!(Packet::decode(&bytes), Err(PacketError::Version { version: 2, id: None }));
    }

    #[test]
    fn every_shorter_piece_is_foreign() {
        let bytes = Packet::encode(Kind::Presence, ORIGIN, 0, b"");
        for length in 0..bytes.len() {
            assert_eq!(Packet::decode(&bytes[..length]), Err(PacketError::Foreign), "{length}");
        }
        let mut unknown = bytes;
        unknown[3] = 4;
        assert_eq!(Packet::decode(&unknown), Err(PacketError::Foreign));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), is_ours: bool) {
            let mut bytes = bytes;
            if is_ours && bytes.len() >= 4 {
                bytes[..3].copy_from_slice(b"ib\x01");
                bytes[3] %= 4;
            }
            if let Ok(packet) = Packet::decode(&bytes) {
                let again =
                    Packet::encode(packet.kind, packet.origin, packet.sequence, packet.body);
                prop_assert_eq!(again, bytes.clone());
            }
            let mut reader = Reader(&bytes);
            let _ = (reader.text(), reader.u64(), reader.text());
        }
    }
}
