//! Whether a copy was answered as the call was.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::inference::ModelInferResponse;
use weft_proto::inference::model_infer_response::InferOutputTensor;
use weft_proto::message::Message;
use weft_telemetry::ShadowOutcome;

use super::Answer;

/// Compares the call's answer with the copy's: the status first, then the outputs.
pub(super) fn compare(call: Answer, copy: Answer) -> ShadowOutcome {
    match (call, copy) {
        (Ok(call), Ok(copy)) => match is_same(call, copy) {
            true => ShadowOutcome::Equal,
            false => ShadowOutcome::Different,
        },
        (Err(call), Err(copy)) if call == copy => ShadowOutcome::Equal,
        (Err(_), Ok(_)) => ShadowOutcome::Different,
        (_, Err(_)) => ShadowOutcome::Failed,
    }
}

/// Whether two answers hold the same outputs with the same contents, in whatever order. Bytes are compared, so numbers that differ
/// in their last bit differ. A message that came in several pieces is copied into one for it.
fn is_same(one: Message, other: Message) -> bool {
    match (ModelInferResponse::decode(one.into_payload()), ModelInferResponse::decode(other.into_payload())) {
        (Ok(one), Ok(other)) => {
            // Two outputs of one name, or contents without an output, are not told from each other: then the order counts.
            match (by_name(&one), by_name(&other)) {
                (Some(one), Some(other)) => one == other,
                _ => one.outputs == other.outputs && one.raw_output_contents == other.raw_output_contents,
            }
        }
        _ => false,
    }
}

/// The outputs by their names, each with its contents if those are raw; `None` when they cannot be told apart.
fn by_name(answer: &ModelInferResponse) -> Option<BTreeMap<&str, (&InferOutputTensor, Option<&Bytes>)>> {
    let (outputs, raw) = (&answer.outputs, &answer.raw_output_contents);
    let contents = raw.iter().map(Some).chain(std::iter::repeat(None));
    let named: BTreeMap<_, _> =
        outputs.iter().zip(contents).map(|(output, raw)| (output.name.as_str(), (output, raw))).collect();
    let is_whole = named.len() == outputs.len() && (raw.is_empty() || raw.len() == outputs.len());
    is_whole.then_some(named)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn output(name: &str, datatype: &str, shape: &[i64]) -> InferOutputTensor {
        InferOutputTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), ..Default::default() }
    }

    fn answer(model: &str, outputs: Vec<InferOutputTensor>, raw: &[&'static [u8]]) -> Answer {
        let raw_output_contents = raw.iter().map(|bytes| Bytes::from_static(bytes)).collect();
        let response = ModelInferResponse {
            model_name: model.into(),
            model_version: model.into(),
            id: "7".into(),
            outputs,
            raw_output_contents,
            ..Default::default()
        };
        Ok(Message::of(response.encode_to_vec().into()))
    }

    #[test]
    fn outputs_are_compared_and_names_of_models_are_not() {
        let base = || answer("a", vec![output("x", "INT8", &[2]), output("y", "INT8", &[1])], &[b"12", b"3"]);
        let one = |output: InferOutputTensor, raw| answer("b", vec![output], &[raw]);
        let cases = [
            (answer("b", vec![output("x", "INT8", &[2]), output("y", "INT8", &[1])], &[b"12", b"3"]), true),
            (answer("b", vec![output("y", "INT8", &[1]), output("x", "INT8", &[2])], &[b"3", b"12"]), true),
            (answer("b", vec![output("y", "INT8", &[1]), output("x", "INT8", &[2])], &[b"12", b"3"]), false),
            (answer("b", vec![output("x", "INT8", &[2]), output("y", "INT8", &[1])], &[b"12", b"4"]), false),
            (answer("b", vec![output("x", "INT8", &[2, 1]), output("y", "INT8", &[1])], &[b"12", b"3"]), false),
            (answer("b", vec![output("x", "UINT8", &[2]), output("y", "INT8", &[1])], &[b"12", b"3"]), false),
            (answer("b", vec![output("x", "INT8", &[2]), output("z", "INT8", &[1])], &[b"12", b"3"]), false),
            (answer("b", vec![output("x", "INT8", &[2]), output("y", "INT8", &[1])], &[b"12"]), false),
            (one(output("x", "INT8", &[2]), b"12"), false),
            (Ok(Message::of(Bytes::from_static(b"\xff"))), false),
        ];
        for (other, is_equal) in cases {
            let expected = if is_equal { ShadowOutcome::Equal } else { ShadowOutcome::Different };
            assert_eq!(compare(base(), other.clone()), expected, "{other:?}");
        }
    }

    #[test]
    fn the_status_is_compared_first() {
        let good = || answer("a", Vec::new(), &[]);
        let table = [
            (good(), Err(Code::Internal), ShadowOutcome::Failed),
            (Err(Code::InvalidArgument), Err(Code::InvalidArgument), ShadowOutcome::Equal),
            (Err(Code::InvalidArgument), Err(Code::Internal), ShadowOutcome::Failed),
            (Err(Code::InvalidArgument), good(), ShadowOutcome::Different),
        ];
        for (call, copy, expected) in table {
            assert_eq!(compare(call.clone(), copy.clone()), expected, "{call:?} {copy:?}");
        }
    }
}
