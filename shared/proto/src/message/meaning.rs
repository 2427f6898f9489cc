//! What two requests have in common that ask for the same, and how the answer to one becomes the answer to the other.

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::encoding::{decode_varint, encode_varint};

use super::{Message, PREFIX, Rest};
use crate::frame::{MAX_PARAMETERS, key_and_value};

/// `id`, of a `ModelInferRequest` and of a `ModelInferResponse` alike.
const ID: u64 = 3;
const PARAMETERS: u64 = 4;
/// Longer parameters are not read for what they say.
const MAX_ENTRY: usize = 64 << 10;
/// Parameters by which a request is more than its tensors.
const OF_ITS_OWN: [&str; 4] = ["priority", "sequence_id", "sequence_start", "sequence_end"];

impl Message {
    /// Hands over the bytes of a `ModelInferRequest` that its answer depends on, in an order and a form of their own: requests that hand over the
    /// same bytes ask for the same, whatever their `id` and their `timeout`, and in whatever order their parameters come.
    ///
    /// `None` for a request that belongs to a sequence or has a priority, and for one that is malformed.
    pub fn meaning(&self, sink: &mut impl FnMut(&[u8])) -> Option<()> {
        let mut rest = self.payload();
        let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
        let mut length = 0u64;
        let mut put = |bytes: &[u8]| {
            length += bytes.len() as u64;
            sink(bytes);
        };
        while rest.has_remaining() {
            let key = decode_varint(&mut rest).ok()?;
            match (key >> 3, key & 7) {
                (ID, 2) => {
                    let skipped = contents(&mut rest)?;
                    rest.advance(skipped);
                }
                (PARAMETERS, 2) => {
                    let length = contents(&mut rest).filter(|length| *length <= MAX_ENTRY)?;
                    entries.extend(parameter(&rest.copy_to_bytes(length))?);
                }
                _ => field(key, &mut rest, &mut put)?,
            }
            if entries.len() > MAX_PARAMETERS {
                return None;
            }
        }
        entries.sort_unstable();
        // Of two with one key the last one counts, so that their order would matter.
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        // Lengths behind what they are the lengths of: read from its end, it can be taken apart in one way only.
        for (_, entry) in &entries {
            sink(entry);
            sink(&(entry.len() as u64).to_be_bytes());
        }
        sink(&(entries.len() as u64).to_be_bytes());
        sink(&length.to_be_bytes());
        Some(())
    }

    /// A `ModelInferResponse` as the answer to an equal request with this id. Of a field that comes twice the last one counts, so that nothing
    /// is copied or read.
    #[must_use]
    pub fn answering(&self, id: &str) -> Self {
        let mut field = Vec::with_capacity(id.len() + 8);
        encode_varint(ID << 3 | 2, &mut field);
        encode_varint(id.len() as u64, &mut field);
        field.put_slice(id.as_bytes());
        let mut skipped = PREFIX;
        let payload = self.pieces.iter().filter_map(|piece| {
            let from = skipped.min(piece.len());
            skipped -= from;
            (from < piece.len()).then(|| piece.slice(from..))
        });
        let length = self.len().saturating_sub(PREFIX) + field.len();
        let mut prefix = Vec::with_capacity(PREFIX);
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        let mut pieces = Vec::with_capacity(self.pieces.len() + 2);
        pieces.push(Bytes::from(prefix));
        pieces.extend(payload);
        pieces.push(field.into());
        Self { pieces }
    }

    /// A copy in one piece that shares no buffer with anything.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut copy = Vec::with_capacity(self.len());
        self.pieces.iter().for_each(|piece| copy.extend_from_slice(piece));
        Self { pieces: Some(Bytes::from(copy)).filter(|copy| !copy.is_empty()).into_iter().collect() }
    }
}

/// The length of what follows, if it is there.
fn contents(rest: &mut Rest<'_>) -> Option<usize> {
    let length = decode_varint(rest).ok()?;
    usize::try_from(length).ok().filter(|length| *length <= rest.remaining())
}

/// A parameter's name and entry; `Some(None)` for one that makes no difference, `None` for one that makes the request more than its tensors.
fn parameter(entry: &[u8]) -> Option<Option<(String, Vec<u8>)>> {
    let (name, _) = key_and_value(entry).ok()?;
    if OF_ITS_OWN.contains(&name) {
        return None;
    }
    Some((name != "timeout").then(|| (name.to_owned(), entry.to_vec())))
}

/// Hands over one field as it is.
fn field(key: u64, rest: &mut Rest<'_>, put: &mut impl FnMut(&[u8])) -> Option<()> {
    let mut head = Vec::with_capacity(20);
    encode_varint(key, &mut head);
    let length = match key & 7 {
        0 => {
            encode_varint(decode_varint(rest).ok()?, &mut head);
            0
        }
        1 => 8,
        5 => 4,
        2 => {
            let length = contents(rest)?;
            encode_varint(length as u64, &mut head);
            length
        }
        _ => return None,
    };
    put(&head);
    let mut left = (length <= rest.remaining()).then_some(length)?;
    while left > 0 {
        let taken = left.min(rest.chunk().len());
        put(&rest.chunk()[..taken]);
        rest.advance(taken);
        left -= taken;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::inference::infer_parameter::ParameterChoice;
    use crate::inference::model_infer_request::InferInputTensor;
    use crate::inference::{InferParameter, ModelInferRequest, ModelInferResponse};

    fn choice(number: i64) -> InferParameter {
        InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(number)) }
    }

    fn request(parameters: &[(&str, i64)]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".to_owned(),
            id: "one".to_owned(),
            parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), choice(*value))).collect(),
            inputs: vec![InferInputTensor { name: "INPUT".to_owned(), shape: vec![1, 300], ..Default::default() }],
            raw_input_contents: vec![vec![7; 300].into()],
            ..Default::default()
        }
    }

    fn meaning_of(message: &Message) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        message.meaning(&mut |bytes| all.extend_from_slice(bytes)).map(|()| all)
    }

    fn meaning(request: &ModelInferRequest) -> Option<Vec<u8>> {
        meaning_of(&Message::of(request.encode_to_vec().into()))
    }

    #[test]
    fn id_and_timeout_make_no_difference_and_all_else_does() {
        let plain = request(&[("a", 1), ("b", 2)]);
        let known = meaning(&plain).expect("it has one");
        let same = [
            ModelInferRequest { id: "another".to_owned(), ..plain.clone() },
            ModelInferRequest { id: String::new(), ..plain.clone() },
            request(&[("b", 2), ("a", 1)]),
            request(&[("timeout", 5), ("b", 2), ("a", 1)]),
        ];
        for (index, one) in same.iter().enumerate() {
            assert_eq!(meaning(one).as_ref(), Some(&known), "{index}");
        }
        let other = [
            request(&[("a", 1)]),
            request(&[("a", 2), ("b", 1)]),
            request(&[("a", 1), ("b", 2), ("c", 0)]),
            ModelInferRequest { model_name: "n".to_owned(), ..plain.clone() },
            ModelInferRequest { model_version: "1".to_owned(), ..plain.clone() },
            ModelInferRequest { raw_input_contents: vec![vec![8; 300].into()], ..plain.clone() },
            ModelInferRequest { raw_input_contents: vec![], ..plain.clone() },
            ModelInferRequest { inputs: vec![], ..plain },
        ];
        for (index, one) in other.iter().enumerate() {
            assert!(meaning(one).is_some_and(|meaning| meaning != known), "{index}");
        }
        for own in OF_ITS_OWN {
            assert_eq!(meaning(&request(&[("a", 1), (own, 1)])), None, "{own}");
        }
    }

    /// Parameters by hand: a map as clients write it may hold a key twice.
    fn entries(entries: &[(&str, i64)]) -> Vec<u8> {
        let one = |entry: &(&str, i64)| request(&[*entry]).encode_to_vec();
        let empty = ModelInferRequest { parameters: [].into(), ..request(&[]) }.encode_to_vec();
        entries.iter().fold(empty, |all, entry| {
            let only = ModelInferRequest { parameters: request(&[*entry]).parameters, ..ModelInferRequest::default() };
            debug_assert!(one(entry).len() > only.encoded_len());
            [all, only.encode_to_vec()].concat()
        })
    }

    #[test]
    fn a_parameter_that_comes_twice_has_no_meaning_of_its_own() {
        let of = |all: &[(&str, i64)]| meaning_of(&Message::of(entries(all).into()));
        assert_eq!(of(&[("a", 1), ("b", 2)]), of(&[("b", 2), ("a", 1)]));
        assert!(of(&[("a", 1), ("b", 2)]).is_some());
        assert_eq!(of(&[("a", 1), ("a", 2)]), None);
        // A caller's text cannot be made to look like another parameter.
        assert_ne!(of(&[("a", 1)]), of(&[]));
    }

    proptest! {
        /// It is the same in however many pieces a request comes, and nothing makes it panic.
        #[test]
        fn pieces_make_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..80), valid: bool, at in 1usize..60) {
            let bytes = if valid { request(&[("a", 1), ("b", 2)]).encode_to_vec() } else { bytes };
            let whole = Message::of(bytes.into());
            let joined = whole.pieces.concat();
            let pieces = joined.chunks(at).map(Bytes::copy_from_slice).collect();
            let pieces = Message { pieces };
            prop_assert_eq!(meaning_of(&whole), meaning_of(&pieces));
            prop_assert!(!valid || meaning_of(&whole).is_some());
        }

        /// The answer is the caller's own, in however many pieces it is kept.
        #[test]
        fn an_answer_takes_any_id(kept in ".{0,20}", id in ".{0,300}", at in 1usize..60) {
            let answer = ModelInferResponse {
                model_name: "m".to_owned(),
                id: kept,
                raw_output_contents: vec![vec![7; 300].into()],
                ..ModelInferResponse::default()
            };
            let joined = Message::of(answer.encode_to_vec().into()).pieces.concat();
            let kept = Message { pieces: joined.chunks(at).map(Bytes::copy_from_slice).collect() };
            for kept in [kept.clone(), kept.detached()] {
                let given = kept.answering(&id);
                let length = given.len();
                prop_assert_eq!(given.pieces.concat()[1..PREFIX].to_vec(), u32::try_from(length - PREFIX).expect("short").to_be_bytes());
                let decoded = ModelInferResponse::decode(given.into_payload()).expect("it is one");
                prop_assert_eq!(decoded, ModelInferResponse { id: id.clone(), ..answer.clone() });
            }
            prop_assert_eq!(kept.detached().pieces.len(), 1);
        }
    }
}
