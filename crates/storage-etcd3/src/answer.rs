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
                Some(field) if field.length <= rest.len() => {
                    self.whole(data, at, &field, part)?;
                    at += field.length;
                }
                measured => {
                    let length = measured.map_or(0, |field| field.length).min(RESERVED);
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
        let field = loop {
            match (self.measured(&self.begun)?, data.get(at)) {
                (Some(field), _) => break field,
                (None, Some(byte)) => self.begun.put_u8(*byte),
                (None, None) => return Ok(at),
            }
            at += 1;
        };
        let missing = field.length.saturating_sub(self.begun.len());
        let rest = data.get(at..).unwrap_or_default();
        let rest = rest.get(..missing).unwrap_or(rest);
        self.begun.reserve(missing.min(RESERVED));
        self.begun.extend_from_slice(rest);
        if self.begun.len() == field.length {
            let whole = std::mem::take(&mut self.begun).freeze();
            self.whole(&whole, 0, &field, part)?;
        }
        Ok(at + rest.len())
    }

    /// Takes a field that begins there, or the head before the first one.
    fn whole(&mut self, data: &Bytes, at: usize, field: &Field, part: &mut Part) -> KvResult<()> {
        let content = at + field.head..at + field.length;
        match self.left {
            None => {
                let length = length_of(data.get(content).unwrap_or_default()).map_err(broken)?;
                self.left = Some(length);
                if length > self.room {
                    part.too_large = Some(length);
                    return Ok(());
                }
            }
            Some(left) => {
                let left = left.checked_sub(field.length);
                self.left = Some(left.ok_or_else(|| broken("it is longer than it says"))?);
                match field.tag {
                    PAIR => part.pairs.push(pair(data, content)?),
                    HEADER => part.header = Some(ResponseHeader::decode(data.slice(content)).map_err(undecodable)?),
                    MORE => self.end.more = field.number != 0,
                    COUNT => self.end.count = field.number.cast_signed(),
                    _ => {}
                }
            }
        }
        if self.left == Some(0) {
            part.end = Some(self.end);
        }
        Ok(())
    }

    /// What begins here, once that can be told.
    fn measured(&self, bytes: &[u8]) -> KvResult<Option<Field>> {
        let Some(left) = self.left else {
            return Ok(Some(Field {
                tag: 0,
                number: 0,
                head: 0,
                length: HEAD,
            }));
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        if left == 0 {
            return Err(broken("something follows it"));
        }
        match Field::at(bytes) {
            Some(field) if field.length > left => Err(broken("a field is longer than it")),
            None if !may_become_field(bytes) => Err(broken("a field is none")),
            measured => Ok(measured),
        }
    }
}

/// A field of a message, by what stands before its content.
#[derive(Debug, Clone, Copy)]
struct Field {
    /// Its number and type.
    tag: u64,
    /// What it is, if it is a number.
    number: u64,
    /// Bytes before its content, and all of them with it.
    head: usize,
    length: usize,
}

impl Field {
    /// The field that begins there; `None` where too little of it is there to tell, or it is none.
    #[inline(always)]
    fn at(bytes: &[u8]) -> Option<Self> {
        let (tag, head) = varint(bytes)?;
        let behind = bytes.get(head..)?;
        let (number, head, content) = match tag & 7 {
            0 => varint(behind).map(|(number, bytes)| (number, head + bytes, 0))?,
            1 => (0, head, 8),
            2 => {
                let (length, bytes) = varint(behind)?;
                (0, head + bytes, usize::try_from(length).ok()?)
            }
            5 => (0, head, 4),
            _ => return None,
        };
        Some(Self {
            tag,
            number,
            head,
            // One that has no end in memory is longer than anything.
            length: head.saturating_add(content),
        })
    }
}

/// A key with its value, which is a slice of the data that it stands in.
fn pair(data: &Bytes, within: Range<usize>) -> KvResult<KvPair> {
    let (mut key, mut value, mut created, mut revision, mut lease) = (&[][..], 0..0, 0, 0, 0);
    let (mut at, end) = (within.start, within.end);
    let bytes = data.get(..end).unwrap_or_default();
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let field = Field::at(rest).filter(|field| field.length <= rest.len());
        let field = field.ok_or_else(|| broken("a pair is cut short"))?;
        let content = at + field.head..at + field.length;
        at = content.end;
        match field.tag {
            KEY => key = bytes.get(content).unwrap_or_default(),
            CREATED => created = field.number.cast_signed(),
            REVISION => revision = field.number.cast_signed(),
            VALUE => value = content,
            LEASE => lease = field.number.cast_signed(),
            _ => {}
        }
    }
    Ok(KvPair {
        key: convert::stored_key(key)?,
        value: data.slice(value),
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

/// Whether what is no field yet may become one when more of it comes.
#[cold]
fn may_become_field(bytes: &[u8]) -> bool {
    let Some((tag, head)) = varint(bytes) else {
        return bytes.len() < LONGEST_VARINT;
    };
    match tag & 7 {
        1 | 5 => true,
        0 | 2 => varint(bytes.get(head..).unwrap_or_default()).is_none() && bytes.len() - head < LONGEST_VARINT,
        _ => false,
    }
}

/// A number and how many bytes it takes; `None` if its end is not there, or it has none.
#[inline(always)]
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    match bytes {
        [byte @ ..0x80, ..] => Some((u64::from(*byte), 1)),
        [low, high @ ..0x80, ..] => Some((u64::from(low & 0x7f) | u64::from(*high) << 7, 2)),
        bytes => long_varint(bytes),
    }
}

fn long_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(LONGEST_VARINT).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    None
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
