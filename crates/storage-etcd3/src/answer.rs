//! The answer to a range, read while it comes.
//!
//! etcd answers a range with one message, however many keys it has. The client gathers all of it before it looks at
//! anything; here each pair is taken out as soon as its last byte is there, so that what follows is looked at while the
//! rest is on its way, and nothing has room for all of it at once. Values are slices of what came from the wire, or where
//! one was cut apart on the way, a piece of memory of its own.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use apiserver_storage_kv::{KvPair, KvResult, LeaseId};

use crate::cluster::positive;
use crate::convert;
use crate::error::fault;
use crate::proto::ResponseHeader;
use crate::transport::{HEAD, RESERVED, length_of};

/// Bytes of the longest tag and length of a field.
const LONGEST_VARINT: usize = 10;

/// What came of an answer, from one piece of it.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Where the store was. Comes before the first pair.
    pub(crate) header: Option<ResponseHeader>,
    pub(crate) pairs: Vec<KvPair>,
    /// The answer has more bytes than there is room for. Nothing of it was taken, and nothing more comes.
    pub(crate) too_large: Option<usize>,
    /// How the answer ends, once all of it is there.
    pub(crate) end: Option<End>,
}

/// What stands behind the last pair.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct End {
    pub(crate) more: bool,
    pub(crate) count: i64,
}

/// The message, as far as it has come.
#[derive(Debug)]
pub(crate) struct Incoming {
    room: usize,
    /// Bytes that are still to come; none before its head is there.
    left: Option<usize>,
    /// The begin of what was cut apart.
    begun: BytesMut,
    end: End,
}

impl Incoming {
    /// `room`: bytes of the largest answer that is taken.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            room,
            left: None,
            begun: BytesMut::new(),
            end: End::default(),
        }
    }

    /// Takes what came out of the next piece of data.
    pub(crate) fn take(&mut self, data: &Bytes, part: &mut Part) -> KvResult<()> {
        let mut at = self.complete(data, part)?;
        while let Some(rest) = data
            .get(at..)
            .filter(|rest| !rest.is_empty() && part.too_large.is_none())
        {
            match self.measured(rest)? {
                Some(length) if length <= rest.len() => {
                    self.whole(data, at..at + length, part)?;
                    at += length;
                }
                measured => {
                    let length = measured.unwrap_or_default().min(RESERVED);
                    self.begun = BytesMut::with_capacity(length.max(rest.len()));
                    self.begun.extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Completes what was cut apart, if that is in the data, and says how much of the data belongs to it.
    fn complete(&mut self, data: &Bytes, part: &mut Part) -> KvResult<usize> {
        let mut at = 0;
        if self.begun.is_empty() {
            return Ok(at);
        }
        // How long it is is known after a few bytes.
        let length = loop {
            match (self.measured(&self.begun)?, data.get(at)) {
                (Some(length), _) => break length,
                (None, Some(byte)) => self.begun.put_u8(*byte),
                (None, None) => return Ok(at),
            }
            at += 1;
        };
        let missing = length.saturating_sub(self.begun.len());
        let rest = data.get(at..).unwrap_or_default();
        let rest = rest.get(..missing).unwrap_or(rest);
        self.begun.reserve(missing.min(RESERVED));
        self.begun.extend_from_slice(rest);
        if self.begun.len() == length {
            let whole = std::mem::take(&mut self.begun).freeze();
            self.whole(&whole, 0..length, part)?;
        }
        Ok(at + rest.len())
    }

    /// Takes a field, or the head before the first one.
    fn whole(&mut self, data: &Bytes, at: Range<usize>, part: &mut Part) -> KvResult<()> {
        let bytes = data.get(at.clone()).unwrap_or_default();
        match self.left {
            None => {
                let length = length_of(bytes).map_err(broken)?;
                self.left = Some(length);
                if length > self.room {
                    part.too_large = Some(length);
                    return Ok(());
                }
            }
            Some(left) => {
                let left = left.checked_sub(bytes.len());
                self.left = Some(left.ok_or_else(|| broken("it is longer than it says"))?);
                // What a field is made of was looked at when it was measured.
                let (tag, head) = varint(bytes)?.unwrap_or_default();
                let (value, length) = varint(bytes.get(head..).unwrap_or_default())?.unwrap_or_default();
                let inner = (at.start + head + length).min(at.end)..at.end;
                match tag {
                    PAIR => part.pairs.push(pair(data, inner)?),
                    HEADER => part.header = Some(ResponseHeader::decode(data.slice(inner)).map_err(undecodable)?),
                    MORE => self.end.more = value != 0,
                    COUNT => self.end.count = value.cast_signed(),
                    _ => {}
                }
            }
        }
        if self.left == Some(0) {
            part.end = Some(self.end);
        }
        Ok(())
    }

    /// How long what begins here is, once that can be told.
    fn measured(&self, bytes: &[u8]) -> KvResult<Option<usize>> {
        let Some(left) = self.left else {
            return Ok(Some(HEAD));
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        if left == 0 {
            return Err(broken("something follows it"));
        }
        let Some((tag, head)) = varint(bytes)? else {
            return Ok(None);
        };
        let Some(behind) = bytes.get(head..) else {
            return Ok(None);
        };
        let length = match tag & 7 {
            0 => varint(behind)?.map(|(_, length)| length),
            1 => Some(8),
            2 => match varint(behind)? {
                Some((length, head)) => {
                    let length = usize::try_from(length).ok().and_then(|length| length.checked_add(head));
                    Some(length.ok_or_else(|| broken("a field has no end"))?)
                }
                None => None,
            },
            5 => Some(4),
            _ => return Err(broken("a field is of no known type")),
        };
        let length = length.map(|length| length.saturating_add(head));
        if length.is_some_and(|length| length > left) {
            return Err(broken("a field is longer than it"));
        }
        Ok(length)
    }
}

/// A key with its value, which is a slice of the data that it stands in.
fn pair(data: &Bytes, within: Range<usize>) -> KvResult<KvPair> {
    let (bytes, start) = (data.get(within.clone()).unwrap_or_default(), within.start);
    let (mut key, mut value, mut created, mut revision, mut lease) = (&[][..], 0..0, 0, 0, 0);
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let number = |bytes| varint(bytes)?.ok_or_else(|| broken("a pair is cut short"));
        let (tag, head) = number(rest)?;
        let rest = rest.get(head..).unwrap_or_default();
        let (found, length) = match tag & 7 {
            0 => number(rest)?,
            1 => (0, 8),
            2 => number(rest)?,
            5 => (0, 4),
            _ => return Err(broken("a field of a pair is of no known type")),
        };
        let begin = at + head + length;
        at = match tag & 7 {
            2 => usize::try_from(found).ok().and_then(|length| begin.checked_add(length)),
            _ => Some(begin),
        }
        .filter(|end| *end <= bytes.len())
        .ok_or_else(|| broken("a pair is cut short"))?;
        match tag {
            KEY => key = bytes.get(begin..at).unwrap_or_default(),
            CREATED => created = found.cast_signed(),
            REVISION => revision = found.cast_signed(),
            VALUE => value = begin..at,
            LEASE => lease = found.cast_signed(),
            _ => {}
        }
    }
    Ok(KvPair {
        key: convert::stored_key(key)?,
        value: data.slice(start + value.start..start + value.end),
        revision: positive(revision)?,
        created: positive(created)?,
        lease: (lease != 0).then_some(LeaseId(lease)),
    })
}

// Numbers of the fields of a `KeyValue`, with their types.
const KEY: u64 = 1 << 3 | 2;
const CREATED: u64 = 2 << 3;
const REVISION: u64 = 3 << 3;
const VALUE: u64 = 5 << 3 | 2;
const LEASE: u64 = 6 << 3;

// Numbers of the fields of a `RangeResponse`, with their types.
const HEADER: u64 = 1 << 3 | 2;
const PAIR: u64 = 2 << 3 | 2;
const MORE: u64 = 3 << 3;
const COUNT: u64 = 4 << 3;

/// A number and how many bytes it takes; `None` if its end is not there yet.
#[inline(always)]
fn varint(bytes: &[u8]) -> KvResult<Option<(u64, usize)>> {
    match bytes {
        [byte @ ..0x80, ..] => Ok(Some((u64::from(*byte), 1))),
        [low, high @ ..0x80, ..] => Ok(Some((u64::from(low & 0x7f) | u64::from(*high) << 7, 2))),
        bytes => long_varint(bytes),
    }
}

fn long_varint(bytes: &[u8]) -> KvResult<Option<(u64, usize)>> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(LONGEST_VARINT).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((number, at + 1)));
        }
    }
    match bytes.len() {
        ..LONGEST_VARINT => Ok(None),
        _ => Err(broken("a number has no end")),
    }
}

fn broken(what: &str) -> apiserver_storage_kv::KvError {
    fault(format!("an answer that cannot be read: {what}"))
}

fn undecodable(error: prost::DecodeError) -> apiserver_storage_kv::KvError {
    broken(&error.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes};
    use proptest::prelude::*;
    use prost::Message;

    use apiserver_storage_kv::KvResult;

    use super::{Incoming, Part};
    use crate::convert;
    use crate::proto::{KeyValue, RangeResponse, ResponseHeader};

    /// A message as it goes over the wire.
    fn framed(message: &[u8]) -> Vec<u8> {
        let mut wire = vec![0];
        wire.put_u32(u32::try_from(message.len()).expect("short"));
        wire.extend_from_slice(message);
        wire
    }

    /// What comes of data that arrives in pieces.
    fn read(room: usize, pieces: impl IntoIterator<Item = Bytes>) -> KvResult<Part> {
        let (mut incoming, mut part) = (Incoming::new(room), Part::default());
        for piece in pieces {
            assert!(part.end.is_none() || piece.is_empty(), "the end was told too early");
            incoming.take(&piece, &mut part)?;
        }
        Ok(part)
    }

    fn cut(wire: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces = cuts
            .windows(2)
            .map(|ends| Bytes::copy_from_slice(&wire[ends[0]..ends[1]]));
        pieces.collect()
    }

    fn answer(values: &[Vec<u8>], more: bool, count: i64) -> RangeResponse {
        let pairs = values.iter().enumerate().map(|(number, value)| KeyValue {
            key: format!("/registry/pods/ns/p{number}").into(),
            create_revision: 3,
            mod_revision: 300 + i64::try_from(number).expect("few"),
            version: 1,
            value: value.clone().into(),
            lease: i64::from(number % 3 == 2),
        });
        RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                revision: 1 << 40,
            }),
            kvs: pairs.collect(),
            more,
            count,
        }
    }

    #[track_caller]
    fn is_answer(part: &Part, answer: &RangeResponse) {
        let pairs = answer.kvs.iter().cloned().map(convert::pair);
        assert_eq!(part.pairs, pairs.collect::<KvResult<Vec<_>>>().expect("sound"));
        assert_eq!(part.header, answer.header);
        let end = part.end.expect("all of it came");
        assert_eq!((end.more, end.count), (answer.more, answer.count));
    }

    #[test]
    fn what_is_whole_is_a_slice_of_what_came() {
        let wire = Bytes::from(framed(
            &answer(&[vec![b'a'; 100], vec![b'b'; 100]], true, 5).encode_to_vec(),
        ));
        let part = read(usize::MAX, [wire.clone()]).expect("sound");
        let is_within = |value: &Bytes| wire.as_ptr_range().contains(&value.as_ptr());
        assert!(part.pairs.len() == 2 && part.pairs.iter().all(|pair| is_within(&pair.value)));
    }

    #[test]
    fn an_answer_that_is_too_large_is_refused_by_its_head() {
        let message = answer(&[vec![b'a'; 100]], false, 1).encode_to_vec();
        let wire = Bytes::from(framed(&message));
        let part = read(message.len() - 1, [wire.slice(..5)]).expect("sound");
        assert_eq!(part.too_large, Some(message.len()));
        is_answer(
            &read(message.len(), [wire]).expect("sound"),
            &answer(&[vec![b'a'; 100]], false, 1),
        );
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let good = answer(&[b"v".to_vec()], false, 1).encode_to_vec();
        let long = |tag: u8| [&[tag][..], &[0xff; 12]].concat();
        let unsound = [
            // Compressed.
            [&[1][..], &framed(&good)[1..]].concat(),
            // Two of them, and something behind one.
            [framed(&good), framed(&good)].concat(),
            [framed(&good), vec![0]].concat(),
            // A field that is longer than the message, has no end, or is of no type.
            framed(b"\x12\x05ab"),
            framed(&long(0x12)),
            framed(&long(0x18)),
            framed(&long(0xff)),
            framed(b"\x13\x14"),
            framed(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            // A pair that is none, and one whose key is no text.
            framed(b"\x12\x02\x0a\x05"),
            framed(b"\x12\x07\x0a\x01\xff\x10\x01\x18\x01"),
        ];
        for wire in unsound {
            for step in [1, 3, wire.len()] {
                let pieces = wire.chunks(step).map(Bytes::copy_from_slice);
                let mut incoming = Incoming::new(usize::MAX);
                let read = pieces.map(|piece| incoming.take(&piece, &mut Part::default()));
                read.collect::<KvResult<()>>()
                    .expect_err(&format!("{wire:?}, {step} at a time"));
            }
        }
        // What is not known is passed over, whatever it is.
        let unknown = [&good[..], b"\x28\x05\x31abcdefgh\x3a\x02hi\x45abcd"].concat();
        let part = read(usize::MAX, cut(&framed(&unknown), &[good.len() + 8, good.len() + 12])).expect("sound");
        is_answer(&part, &answer(&[b"v".to_vec()], false, 1));
        // One that is cut short has no end.
        let short = read(usize::MAX, [Bytes::copy_from_slice(&framed(&good)[..good.len()])]).expect("sound so far");
        assert!(short.end.is_none());
    }

    proptest! {
        #[test]
        fn an_answer_is_the_same_wherever_it_is_cut(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            more in any::<bool>(),
            count in any::<i64>(),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
            damage in any::<(usize, u8)>(),
        ) {
            let answer = answer(&values, more, count);
            let mut wire = framed(&answer.encode_to_vec());
            is_answer(&read(usize::MAX, cut(&wire, &cuts)).expect("sound"), &answer);
            // Whatever comes, it is an answer or an error.
            let at = damage.0 % wire.len();
            wire[at] = damage.1;
            let mut incoming = Incoming::new(1 << 20);
            for piece in cut(&wire, &cuts) {
                if incoming.take(&piece, &mut Part::default()).is_err() {
                    break;
                }
            }
        }
    }
}
