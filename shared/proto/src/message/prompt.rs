//! How a text tensor of an undecoded request begins, read from the pieces in which the request came.

use bytes::{Buf, BufMut as _, Bytes};
use prost::encoding::decode_varint;
use weft_types::{Error, Result};

use super::{Message, Rest};

/// The datatype of texts.
const BYTES: &[u8] = b"BYTES";
/// What stands before each text of a raw tensor: its length, the lowest byte first.
const LENGTH: usize = 4;

/// An undecoded `ModelInferRequest` in the pieces in which it came. By default it is empty.
#[derive(Clone, Copy, Default)]
pub struct Payload<'a>(Rest<'a>);

impl<'a> Payload<'a> {
    /// A request that is there in one piece.
    pub fn of(message: &'a Bytes) -> Self {
        let pieces = if message.is_empty() { &[] } else { std::slice::from_ref(message) };
        Self(Rest { pieces, at: 0, remaining: message.len() })
    }

    /// The first `limit` bytes of the first text in the input of this name, or fewer if the text is shorter: of `bytes_contents` = 8,
    /// or else of the input's place in `raw_input_contents` = 7. `None` when there is no such input of type BYTES, and when it
    /// is empty or claims more than is there: what is wrong with it is its worker's to say.
    ///
    /// Allocates what it returns and nothing else, however long the request is.
    ///
    /// # Errors
    ///
    /// When the request is not a valid message, as far as it has to be read.
    pub fn prompt(self, input: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some((index, typed)) = find(self.0, input.as_bytes())? else { return Ok(None) };
        let text = match typed {
            Some(text) => Some(text),
            None => raw(self.0, index)?,
        };
        Ok(text.filter(|(_, length)| *length > 0).map(|(text, length)| copy(text, length.min(limit))))
    }
}

impl Message {
    /// The request that it holds.
    pub fn request(&self) -> Payload<'_> {
        Payload(self.payload())
    }
}

/// Where a field's contents begin, and how long they are.
type Place<'a> = (Rest<'a>, usize);

/// An `InferInputTensor` = 5, as far as it matters here.
#[derive(Default)]
struct Input<'a> {
    is_named: bool,
    is_text: bool,
    text: Option<Place<'a>>,
}

/// The place of the first input of this name among all, and its first text if that is typed. Nothing where it is not of texts.
fn find<'a>(mut rest: Rest<'a>, name: &[u8]) -> Result<Option<(usize, Option<Place<'a>>)>> {
    let mut index = 0;
    while let Some((number, content)) = field(&mut rest, 0)? {
        let Some(end) = content else { continue };
        if number == 5 {
            let input = read_input(rest, end, name)?;
            if input.is_named {
                return Ok(input.is_text.then_some((index, input.text)));
            }
            index += 1;
        }
        skip(&mut rest, end);
    }
    Ok(None)
}

/// `name` = 1, `datatype` = 2 and `contents` = 5. Of a field that is there more than once the last counts; contents are merged.
fn read_input<'a>(mut rest: Rest<'a>, end: usize, name: &[u8]) -> Result<Input<'a>> {
    let mut input = Input::default();
    while let Some((number, content)) = field(&mut rest, end)? {
        let Some(after) = content else { continue };
        match number {
            1 => input.is_named = is(rest, after, name),
            2 => input.is_text = is(rest, after, BYTES),
            5 if input.text.is_none() => input.text = first(rest, after, 8)?,
            _ => {}
        }
        skip(&mut rest, after);
    }
    Ok(input)
}

/// The first field of this number that has a length.
fn first<'a>(mut rest: Rest<'a>, end: usize, wanted: u64) -> Result<Option<Place<'a>>> {
    while let Some((number, content)) = field(&mut rest, end)? {
        let Some(after) = content else { continue };
        if number == wanted {
            return Ok(Some((rest, rest.remaining() - after)));
        }
        skip(&mut rest, after);
    }
    Ok(None)
}

/// The first text of the raw tensor at this place.
fn raw(mut rest: Rest<'_>, index: usize) -> Result<Option<Place<'_>>> {
    let mut before = index;
    while let Some((number, content)) = field(&mut rest, 0)? {
        let Some(end) = content else { continue };
        if number == 7 {
            if before == 0 {
                let length = rest.remaining() - end;
                let claimed = (length >= LENGTH).then(|| rest.get_u32_le() as usize);
                return Ok(claimed.filter(|claimed| *claimed <= length - LENGTH).map(|claimed| (rest, claimed)));
            }
            before -= 1;
        }
        skip(&mut rest, end);
    }
    Ok(None)
}

/// The next field of what lies before `end`, which is told by the bytes that remain behind it. Of a field with a length the end is told
/// and `rest` is left at its contents; others are passed over.
fn field(rest: &mut Rest<'_>, end: usize) -> Result<Option<(u64, Option<usize>)>> {
    if rest.remaining() <= end {
        return Ok(None);
    }
    let key = varint(rest, end)?;
    let content = match key & 7 {
        0 => varint(rest, end).map(|_| None)?,
        1 => pass(rest, end, 8)?,
        5 => pass(rest, end, 4)?,
        2 => {
            let length = usize::try_from(varint(rest, end)?).ok();
            let fits = length.and_then(|length| (rest.remaining() - end).checked_sub(length));
            Some(end + fits.ok_or_else(|| malformed("a length runs past the end"))?)
        }
        _ => return Err(malformed("an unknown wire type")),
    };
    Ok(Some((key >> 3, content)))
}

fn varint(rest: &mut Rest<'_>, end: usize) -> Result<u64> {
    let number = decode_varint(rest).ok().filter(|_| rest.remaining() >= end);
    number.ok_or_else(|| malformed("a number is cut short or too long"))
}

fn pass(rest: &mut Rest<'_>, end: usize, length: usize) -> Result<Option<usize>> {
    if rest.remaining() - end < length {
        return Err(malformed("a field runs past the end"));
    }
    rest.advance(length);
    Ok(None)
}

fn skip(rest: &mut Rest<'_>, end: usize) {
    rest.advance(rest.remaining() - end);
}

/// Whether the contents that end there are these bytes.
fn is(rest: Rest<'_>, end: usize, wanted: &[u8]) -> bool {
    let mut read = rest.take(wanted.len());
    rest.remaining() - end == wanted.len() && wanted.iter().all(|byte| read.has_remaining() && read.get_u8() == *byte)
}

fn copy(rest: Rest<'_>, length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(length);
    text.put(rest.take(length));
    text
}

fn malformed(problem: &str) -> Error {
    Error::invalid("message", format_args!("not a valid protobuf message: {problem}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::inference::model_infer_request::InferInputTensor;
    use crate::inference::{InferTensorContents, ModelInferRequest};

    fn input(name: &str, datatype: &str, typed: &[&str]) -> InferInputTensor {
        let bytes_contents = typed.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let contents = InferTensorContents { bytes_contents, ..InferTensorContents::default() };
        InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            contents: (!typed.is_empty()).then_some(contents),
            ..InferInputTensor::default()
        }
    }

    fn raw(texts: &[&str]) -> Bytes {
        let text = |text: &&str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        texts.iter().flat_map(text).collect()
    }

    fn request(inputs: Vec<InferInputTensor>, raw_input_contents: Vec<Bytes>) -> Bytes {
        let parts = ModelInferRequest { inputs, raw_input_contents, ..ModelInferRequest::default() };
        ModelInferRequest { model_name: "m".to_owned(), id: "7".to_owned(), ..parts }.encode_to_vec().into()
    }

    /// What is read from the message in one piece, and in pieces of every size.
    fn prompt(payload: &Bytes, limit: usize) -> Option<String> {
        let whole = Payload::of(payload).prompt("text_input", limit);
        let message = Message::of(payload.clone());
        for size in 1..payload.len() {
            let pieces: Vec<Bytes> = message.pieces.concat().chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(Message { pieces }.request().prompt("text_input", limit), whole, "pieces of {size}");
        }
        whole.expect("valid").map(|text| String::from_utf8(text).expect("text"))
    }

    #[test]
    fn typed_and_raw_texts_are_found_by_their_inputs_name() {
        let other = || input("stream", "BOOL", &[]);
        let wanted = |typed: &[&str]| input("text_input", "BYTES", typed);
        let table = [
            (vec![wanted(&["you are a", "x"])], vec![], Some("you are")),
            (vec![other(), wanted(&["short"])], vec![], Some("short")),
            (vec![other(), wanted(&[])], vec![vec![1].into(), raw(&["you are a", "x"])], Some("you are")),
            (vec![wanted(&[]), other()], vec![raw(&["a"]), vec![1].into()], Some("a")),
            (vec![wanted(&["first"]), wanted(&["second"])], vec![], Some("first")),
            (vec![wanted(&["", "x"])], vec![], None),
            (vec![wanted(&[])], vec![raw(&[""])], None),
            (vec![wanted(&[])], vec![], None),
            (vec![wanted(&[])], vec![Bytes::from_static(&[1, 0, 0])], None),
            (vec![wanted(&[])], vec![Bytes::from_static(&[2, 0, 0, 0, b'a'])], None),
            (vec![wanted(&[])], vec![Bytes::from_static(&[255, 255, 255, 255, b'a'])], None),
            (vec![input("text_input", "FP32", &[])], vec![raw(&["you"])], None),
            (vec![input("text_inputs", "BYTES", &["you"]), input("text", "BYTES", &["you"])], vec![], None),
            (vec![], vec![raw(&["you"])], None),
        ];
        for (inputs, raw, expected) in table {
            let payload = request(inputs, raw);
            assert_eq!(prompt(&payload, 7).as_deref(), expected, "{payload:?}");
        }
        assert_eq!(prompt(&Bytes::new(), 7), None);
    }

    /// Fields may come in any order, and more than once.
    #[test]
    fn the_order_on_the_wire_does_not_matter() {
        let with_raw = request(vec![], vec![raw(&["hello"])]);
        let with_input = request(vec![input("text_input", "BYTES", &[])], vec![]);
        assert_eq!(prompt(&[with_raw, with_input].concat().into(), 512).as_deref(), Some("hello"));
        let tensor =
            |parts: &[InferInputTensor]| -> Vec<u8> { parts.iter().flat_map(|part| part.encode_to_vec()).collect() };
        let contents_first = [input("", "", &["a"]), input("text_input", "FP32", &["b"]), input("", "BYTES", &[])];
        let payload =
            [&[0x2a, u8::try_from(tensor(&contents_first).len()).expect("short")], &*tensor(&contents_first)].concat();
        let decoded = ModelInferRequest::decode(&*payload).expect("valid");
        assert_eq!(decoded.inputs[0].contents.as_ref().map(|contents| contents.bytes_contents.len()), Some(2));
        assert_eq!(prompt(&payload.into(), 512).as_deref(), Some("a"));
    }

    proptest! {
        /// Whatever the bytes, it ends with what is there; and where a decoder takes the message for valid, so does this.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), claimed: u32, limit in 0usize..40) {
            let _ = Payload::of(&bytes.clone().into()).prompt("text_input", limit);
            let mut tensor = claimed.to_le_bytes().to_vec();
            tensor.extend(&bytes);
            let payload = request(vec![input("text_input", "BYTES", &[])], vec![tensor.into()]);
            let read = Payload::of(&payload).prompt("text_input", limit).expect("valid");
            let there = usize::try_from(claimed).ok().and_then(|claimed| bytes.get(..claimed)).filter(|text| !text.is_empty());
            prop_assert_eq!(read.as_deref(), there.map(|text| &text[..text.len().min(limit)]));
        }
    }
}
