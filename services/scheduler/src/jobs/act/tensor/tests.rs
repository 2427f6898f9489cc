#![expect(clippy::needless_pass_by_value, reason = "values are written down where they are passed")]

use super::*;
use proptest::prelude::*;
use weft_proto::inference::InferTensorContents;

fn tensor(datatype: &str, shape: &[i64], data: Value) -> Value {
    json!({ "datatype": datatype, "shape": shape, "data": data })
}

/// The tensor as an answer with raw contents would bring it back.
fn echoed(value: &Value) -> Result<Value, Problem> {
    let (input, raw) =
        input("x", value).map_err(|misshapen| Problem::Unfit(format!("{}: {}", misshapen.field, misshapen.problem)))?;
    let output = InferOutputTensor {
        name: "y".to_owned(),
        datatype: input.datatype,
        shape: input.shape,
        ..InferOutputTensor::default()
    };
    let answer =
        ModelInferResponse { outputs: vec![output], raw_output_contents: vec![raw], ..ModelInferResponse::default() };
    outputs(&answer).map(|mut outputs| outputs.remove("y").expect("one output"))
}

#[test]
fn every_datatype_goes_there_and_back() {
    for (datatype, data) in [
        ("BOOL", json!([true, false])),
        ("UINT8", json!([0, 255])),
        ("UINT16", json!([0, 65_535])),
        ("UINT32", json!([0, u32::MAX])),
        ("UINT64", json!([0, u64::MAX])),
        ("INT8", json!([-128, 127])),
        ("INT16", json!([-32_768, 32_767])),
        ("INT32", json!([i32::MIN, i32::MAX])),
        ("INT64", json!([i64::MIN, i64::MAX])),
        ("FP16", json!([0.5, -65_504.0])),
        ("BF16", json!([0.5, -3.0])),
        ("FP32", json!([0.1, "-Infinity"])),
        ("FP64", json!([0.1, "NaN"])),
        ("BYTES", json!(["text", { "b64": "/wA=" }])),
    ] {
        let value = tensor(datatype, &[2], data);
        assert_eq!(echoed(&value), Ok(value.clone()), "{datatype}");
    }
    let nested = tensor("INT32", &[2, 2], json!([[1, 2], [3.0, 4]]));
    assert_eq!(echoed(&nested), Ok(tensor("INT32", &[2, 2], json!([1, 2, 3, 4]))));
    assert_eq!(echoed(&tensor("FP32", &[0, 4], json!([]))), Ok(tensor("FP32", &[0, 4], json!([]))));
}

#[test]
fn what_does_not_fit_names_its_field() {
    for (value, field) in [
        (json!(3), "inputs.x.datatype"),
        (tensor("FP8", &[1], json!([1])), "inputs.x.datatype"),
        (json!({ "datatype": "FP32", "data": [] }), "inputs.x.shape"),
        (tensor("FP32", &[-1], json!([1])), "inputs.x.shape"),
        (tensor("FP32", &[i64::MAX, i64::MAX, 0], json!([])), "inputs.x.shape"),
        (tensor("FP32", &[1 << 12, 1 << 12], json!([])), "inputs.x.shape"),
        (tensor("FP32", &[1; 17], json!([1])), "inputs.x.shape"),
        (tensor("FP32", &[2], json!([1])), "inputs.x.data"),
        (tensor("FP32", &[1], json!("1")), "inputs.x.data"),
        (tensor("FP32", &[1], json!(["1"])), "inputs.x.data"),
        (tensor("FP32", &[1], json!([1e39])), "inputs.x.data"),
        (tensor("FP16", &[1], json!([70_000])), "inputs.x.data"),
        (tensor("UINT8", &[1], json!([256])), "inputs.x.data"),
        (tensor("UINT8", &[1], json!([-1])), "inputs.x.data"),
        (tensor("INT64", &[1], json!([0.5])), "inputs.x.data"),
        (tensor("INT64", &[1], json!([1e300])), "inputs.x.data"),
        (tensor("BOOL", &[1], json!([1])), "inputs.x.data"),
        (tensor("BYTES", &[1], json!([{ "b64": "*" }])), "inputs.x.data"),
    ] {
        assert_eq!(input("x", &value).expect_err(field).field, field, "{value}");
    }
}

#[test]
fn typed_contents_are_read_and_torn_ones_refused() {
    let answer = |datatype: &str, shape: &[i64], contents: Option<InferTensorContents>, raw: Vec<Bytes>| {
        let output = InferOutputTensor {
            name: "y".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            contents,
            ..InferOutputTensor::default()
        };
        outputs(&ModelInferResponse {
            outputs: vec![output],
            raw_output_contents: raw,
            ..ModelInferResponse::default()
        })
    };
    let floats = InferTensorContents { fp32_contents: vec![0.1, f32::NAN], ..InferTensorContents::default() };
    let told = answer("FP32", &[2], Some(floats.clone()), vec![]).expect("two floats");
    assert_eq!(told["y"]["data"], json!([0.1, "NaN"]));
    assert!(answer("FP32", &[3], Some(floats.clone()), vec![]).is_err(), "another number of elements");
    assert!(answer("FP16", &[2], Some(floats), vec![]).is_err(), "it has no typed contents");
    for (datatype, raw) in
        [("FP32", &b"abc"[..]), ("BYTES", b"\x05\0\0\0abc"), ("BYTES", b"\x01\0"), ("BYTES", b"\xff\xff\xff\xff")]
    {
        assert!(answer(datatype, &[1], None, vec![Bytes::from_static(raw)]).is_err(), "{datatype} {raw:?}");
    }
    assert!(answer("FP32", &[0], None, vec![Bytes::new(), Bytes::new()]).is_err(), "contents without an output");
}

/// Three quarters of a megabyte would be sixteen as values, and is found out by its length.
#[test]
fn outputs_that_are_too_large_are_not_written_out() {
    let output = |name: &str, datatype: &str, count: i64| InferOutputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![count],
        ..InferOutputTensor::default()
    };
    let answer = |outputs: Vec<InferOutputTensor>, raw: Vec<Vec<u8>>| {
        let raw_output_contents = raw.into_iter().map(Bytes::from).collect();
        super::outputs(&ModelInferResponse { outputs, raw_output_contents, ..ModelInferResponse::default() })
    };
    let most = 1 << 20;
    let zeros = vec![0; most];
    let whole = answer(vec![output("y", "UINT8", 1 << 20)], vec![zeros.clone()]);
    assert_eq!(whole.expect("as much as a value may weigh")["y"]["data"].as_array().map(Vec::len), Some(most));
    let two = vec![output("y", "UINT8", 1 << 20), output("z", "UINT8", 1)];
    assert_eq!(answer(two, vec![zeros, vec![0]]), Err(Problem::TooLarge), "all outputs together");
    // Each is no text, and an object of its own.
    let bytes = b"\x01\0\0\0\xff".repeat(400_000);
    assert_eq!(answer(vec![output("y", "BYTES", 400_000)], vec![bytes]), Err(Problem::TooLarge));
    let contents = Some(InferTensorContents { bool_contents: vec![true; most + 1], ..InferTensorContents::default() });
    let typed = InferOutputTensor { contents, ..output("y", "BOOL", (1 << 20) + 1) };
    assert_eq!(answer(vec![typed], vec![]), Err(Problem::TooLarge));
}

proptest! {
    #[test]
    fn singles_keep_their_bits(numbers in prop::collection::vec(any::<f32>().prop_filter("not NaN", |n| !n.is_nan()), 0..20)) {
        let shape = [i64::try_from(numbers.len()).expect("few")];
        let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let data = Element::Fp32.read(&raw).expect("whole elements");
        let (_, back) = input("x", &tensor("FP32", &shape, Value::from(data))).expect("a tensor");
        prop_assert_eq!(back, raw);
    }

    #[test]
    fn any_bytes_are_read_or_refused(raw in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(texts) = Element::Bytes.read(&raw) {
            let found = Element::Bytes.weigh(&raw).map(|(count, _)| count);
            prop_assert_eq!(found, Some(texts.len()));
            let mut back = Vec::new();
            texts.iter().for_each(|text| Element::Bytes.write(text, &mut back).expect("as it was read"));
            prop_assert_eq!(back, raw);
        }
    }
}
