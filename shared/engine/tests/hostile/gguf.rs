//! GGUF files that mean harm: a small file that is good, and one rule broken at a time.

use weft_engine::format::Rule;

use super::Hostile;

pub(crate) const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

/// A tensor's entry and how much data it has.
#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    /// Said instead of the number of axes that there are.
    count: Option<u32>,
    axes: Vec<u64>,
    kind: u32,
    offset: u64,
    bytes: usize,
}

/// The parts of a file, each of which can be made wrong.
#[derive(Clone)]
pub(crate) struct Gguf {
    magic: [u8; 4],
    version: [u8; 4],
    keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    key_count: Option<u64>,
    tensors: Vec<Tensor>,
    tensor_count: Option<u64>,
    alignment: usize,
    tail: Vec<u8>,
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn list(kind: u32, elements: u64, content: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &elements.to_le_bytes(), content].concat()
}

fn tokens(count: u64) -> Vec<u8> {
    let all: Vec<u8> = (0..count).flat_map(|token| text(format!("t{token}").as_bytes())).collect();
    list(TEXT, count, &all)
}

impl Gguf {
    /// A file with everything that a language model must have.
    pub(crate) fn good() -> Self {
        let mut good = Self {
            magic: *b"GGUF",
            version: 3u32.to_le_bytes(),
            keys: Vec::new(),
            key_count: None,
            tensors: Vec::new(),
            tensor_count: None,
            alignment: 32,
            tail: Vec::new(),
        };
        good.add("general.architecture", TEXT, text(b"llama"));
        for (key, value) in [
            ("block_count", 2u32),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("vocab_size", 8),
        ] {
            good.add(&format!("llama.{key}"), U32, value.to_le_bytes().to_vec());
        }
        good.add("tokenizer.ggml.model", TEXT, text(b"llama"));
        good.add("tokenizer.ggml.tokens", ARRAY, tokens(8));
        good.add("tokenizer.ggml.scores", ARRAY, list(F32, 8, &[0; 32]));
        good.add("tokenizer.ggml.token_type", ARRAY, list(I32, 8, &[1; 32]));
        good.add("tokenizer.ggml.bos_token_id", U32, 1u32.to_le_bytes().to_vec());
        good.add("general.file_type", BOOL, vec![1]);
        for (name, axes, kind, bytes) in [
            ("token_embd.weight", vec![32, 8], 0, 1024),
            ("blk.0.attn_q.weight", vec![32, 32], 8, 1088),
            ("blk.1.attn_q.weight", vec![32, 32], 1, 2048),
            ("output_norm.weight", vec![32], 0, 128),
        ] {
            let offset = good.tensors.iter().map(|tensor| tensor.bytes as u64).sum();
            good.tensors.push(Tensor { name: name.into(), count: None, axes, kind, offset, bytes });
        }
        good
    }

    pub(crate) fn add(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.keys.push((key.into(), kind, value));
    }

    fn entry(&mut self, key: &str) -> &mut (Vec<u8>, u32, Vec<u8>) {
        self.keys.iter_mut().find(|entry| entry.0 == key.as_bytes()).expect("the good file has it")
    }

    fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        *self.entry(key) = (key.into(), kind, value);
    }

    fn remove(&mut self, key: &str) {
        self.keys.retain(|entry| entry.0 != key.as_bytes());
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.magic, self.version].concat();
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend(tensor.count.unwrap_or(tensor.axes.len() as u32).to_le_bytes());
            tensor.axes.iter().for_each(|axis| bytes.extend(axis.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.resize(bytes.len() + self.tensors.iter().map(|tensor| tensor.bytes).sum::<usize>(), 7);
        bytes.extend(&self.tail);
        bytes
    }
}

type Change = fn(&mut Gguf);

/// One change each.
const CHANGES: &[(&str, Rule, Change)] = &[
    ("magic-other-format", Rule::Magic, |file| file.magic = *b"ggml"),
    ("magic-backwards", Rule::Magic, |file| file.magic = *b"FUGG"),
    ("magic-pickle", Rule::Magic, |file| file.magic = *b"\x80\x02}q"),
    ("magic-zip", Rule::Magic, |file| file.magic = *b"PK\x03\x04"),
    ("version-0", Rule::Version, |file| file.version = [0; 4]),
    ("version-1", Rule::Version, |file| file.version = 1u32.to_le_bytes()),
    ("version-4", Rule::Version, |file| file.version = 4u32.to_le_bytes()),
    ("version-huge", Rule::Version, |file| file.version = [0xff; 4]),
    ("big-endian-2", Rule::Endianness, |file| file.version = 2u32.to_be_bytes()),
    ("big-endian-3", Rule::Endianness, |file| file.version = 3u32.to_be_bytes()),
    ("tensors-all-ones", Rule::TensorCount, |file| file.tensor_count = Some(u64::MAX)),
    ("tensors-too-many", Rule::TensorCount, |file| file.tensor_count = Some(65_537)),
    ("tensors-beyond-file", Rule::TensorCount, |file| file.tensor_count = Some(60_000)),
    ("keys-all-ones", Rule::KeyCount, |file| file.key_count = Some(u64::MAX)),
    ("keys-too-many", Rule::KeyCount, |file| file.key_count = Some(4097)),
    ("keys-one-more", Rule::KeyName, |file| file.key_count = Some(file.keys.len() as u64 + 2)),
    ("key-empty", Rule::KeyName, |file| file.keys[1].0.clear()),
    ("key-too-long", Rule::KeyName, |file| file.keys[1].0 = vec![b'k'; 1025]),
    ("key-64-kib", Rule::KeyName, |file| file.keys[1].0 = vec![b'k'; 65_537]),
    ("key-newline", Rule::KeyName, |file| file.keys[1].0 = b"a\nb".to_vec()),
    ("key-zero", Rule::KeyName, |file| file.keys[1].0 = b"a\0b".to_vec()),
    ("key-not-utf8", Rule::KeyName, |file| file.keys[1].0 = vec![0xff, 0xfe]),
    ("key-escape", Rule::KeyName, |file| file.keys[1].0 = b"\x1b[2J".to_vec()),
    ("key-twice", Rule::DuplicateKey, |file| file.keys.push(file.keys[0].clone())),
    ("key-twice-other-kind", Rule::DuplicateKey, |file| file.add("general.architecture", U32, vec![0; 4])),
    ("alignment-twice", Rule::DuplicateKey, |file| {
        file.add("general.alignment", U32, 32u32.to_le_bytes().to_vec());
        file.add("general.alignment", U32, 8u32.to_le_bytes().to_vec());
    }),
    ("kind-13", Rule::ValueKind, |file| file.add("x", 13, vec![0; 8])),
    ("kind-255", Rule::ValueKind, |file| file.add("x", 255, vec![0; 8])),
    ("kind-all-ones", Rule::ValueKind, |file| file.add("x", u32::MAX, vec![0; 8])),
    ("array-of-kind-13", Rule::ValueKind, |file| file.add("x", ARRAY, list(13, 1, &[0; 8]))),
    ("array-of-arrays", Rule::NestedArray, |file| file.add("x", ARRAY, list(ARRAY, 1, &list(U32, 1, &[0; 4])))),
    ("array-of-arrays-deep", Rule::NestedArray, |file| {
        let nested = (0..1000).fold(list(U32, 0, &[]), |inner, _| list(ARRAY, 1, &inner));
        file.add("x", ARRAY, nested);
    }),
    ("array-too-long", Rule::ArrayLength, |file| file.add("x", ARRAY, list(0, (4 << 20) + 1, &[0; 64]))),
    ("array-all-ones", Rule::ArrayLength, |file| file.add("x", ARRAY, list(U64, u64::MAX, &[0; 64]))),
    ("array-wraps", Rule::ArrayLength, |file| file.add("x", ARRAY, list(U64, 1 << 61, &[0; 64]))),
    ("array-beyond-file", Rule::Truncated, |file| file.add("x", ARRAY, list(U64, 4 << 20, &[0; 64]))),
    ("text-all-ones", Rule::StringLength, |file| file.add("x", TEXT, vec![0xff; 8])),
    ("text-too-long", Rule::StringLength, |file| file.add("x", TEXT, text(&vec![b'x'; (1 << 20) + 1]))),
    ("text-beyond-file", Rule::Truncated, |file| file.add("x", TEXT, (1u64 << 20).to_le_bytes().to_vec())),
    ("text-not-utf8", Rule::StringLength, |file| file.add("x", TEXT, text(&[0xc3, 0x28]))),
    ("token-too-long", Rule::StringLength, |file| file.add("x", ARRAY, list(TEXT, 1, &text(&vec![b'x'; 65_537])))),
    ("token-all-ones", Rule::StringLength, |file| file.add("x", ARRAY, list(TEXT, 1, &[0xff; 8]))),
    ("bool-2", Rule::Boolean, |file| file.add("x", BOOL, vec![2])),
    ("bool-255", Rule::Boolean, |file| file.add("x", BOOL, vec![255])),
    ("bool-in-array", Rule::Boolean, |file| file.add("x", ARRAY, list(BOOL, 3, &[0, 1, 2]))),
    ("alignment-0", Rule::Alignment, |file| file.add("general.alignment", U32, vec![0; 4])),
    ("alignment-1", Rule::Alignment, |file| file.add("general.alignment", U32, vec![1, 0, 0, 0])),
    ("alignment-24", Rule::Alignment, |file| file.add("general.alignment", U32, vec![24, 0, 0, 0])),
    ("alignment-128-kib", Rule::Alignment, |file| file.add("general.alignment", U32, vec![0, 0, 2, 0])),
    ("alignment-2-to-63", Rule::Alignment, |file| file.add("general.alignment", U64, vec![0, 0, 0, 0, 0, 0, 0, 128])),
    ("alignment-negative", Rule::Alignment, |file| file.add("general.alignment", I32, vec![0xff; 4])),
    ("alignment-text", Rule::KeyKind, |file| file.add("general.alignment", TEXT, text(b"32"))),
    ("architecture-path", Rule::KeyValue, |file| file.set("general.architecture", TEXT, text(b"../llama"))),
    ("architecture-empty", Rule::KeyValue, |file| file.set("general.architecture", TEXT, text(b""))),
    ("architecture-long", Rule::KeyValue, |file| file.set("general.architecture", TEXT, text(&[b'a'; 65]))),
    ("blocks-too-many", Rule::KeyValue, |file| file.set("llama.block_count", U32, 513u32.to_le_bytes().to_vec())),
    ("experts-too-many", Rule::KeyValue, |file| file.add("llama.expert_count", U32, vec![1, 4, 0, 0])),
    ("blocks-negative", Rule::KeyValue, |file| file.set("llama.block_count", I32, vec![0xff; 4])),
    ("context-all-ones", Rule::KeyValue, |file| file.set("llama.context_length", U64, vec![0xff; 8])),
    ("embedding-all-ones", Rule::KeyValue, |file| file.set("llama.embedding_length", U32, vec![0xff; 4])),
    ("heads-of-other-layers", Rule::KeyValue, |file| {
        file.set("llama.attention.head_count", ARRAY, list(U32, 3, &[1; 12]));
    }),
    ("heads-of-text", Rule::KeyKind, |file| file.set("llama.attention.head_count", ARRAY, tokens(2))),
    ("split-in-two", Rule::SplitFile, |file| file.add("split.count", U32, 2u32.to_le_bytes().to_vec())),
    ("split-of-text", Rule::SplitFile, |file| file.add("split.count", TEXT, text(b"1"))),
    ("adapter", Rule::KeyValue, |file| file.add("general.type", TEXT, text(b"adapter"))),
    ("vocabulary-empty", Rule::Vocabulary, |file| file.set("tokenizer.ggml.tokens", ARRAY, list(TEXT, 0, &[]))),
    ("vocabulary-shorter", Rule::Vocabulary, |file| file.set("tokenizer.ggml.tokens", ARRAY, tokens(7))),
    ("vocabulary-declared", Rule::Vocabulary, |file| file.set("llama.vocab_size", U32, vec![9, 0, 0, 0])),
    ("scores-missing-one", Rule::Vocabulary, |file| {
        file.set("tokenizer.ggml.scores", ARRAY, list(F32, 7, &[0; 28]));
    }),
    ("types-one-more", Rule::Vocabulary, |file| {
        file.set("tokenizer.ggml.token_type", ARRAY, list(I32, 9, &[1; 36]));
    }),
    ("scores-of-integers", Rule::KeyKind, |file| file.set("tokenizer.ggml.scores", ARRAY, list(I32, 8, &[0; 32]))),
    ("first-token-64-bits", Rule::Vocabulary, |file| file.set("tokenizer.ggml.bos_token_id", U64, vec![0xff; 8])),
    ("first-token-negative", Rule::Vocabulary, |file| file.set("tokenizer.ggml.bos_token_id", I32, vec![0xff; 4])),
    ("first-token-text", Rule::KeyKind, |file| file.set("tokenizer.ggml.bos_token_id", TEXT, text(b"1"))),
    ("embedding-other-rows", Rule::Vocabulary, |file| {
        file.tensors[0].axes = vec![32, 4];
        file.tensors[0].bytes = 512;
        file.tensors[1..].iter_mut().for_each(|tensor| tensor.offset -= 512);
    }),
    ("embedding-other-width", Rule::Extent, |file| file.tensors[0].axes = vec![64, 4]),
    ("embedding-one-axis", Rule::Vocabulary, |file| {
        file.tensors[0].axes = vec![32];
        file.tensors[0].bytes = 128;
        file.tensors[1..].iter_mut().for_each(|tensor| tensor.offset -= 896);
    }),
    ("tensor-unnamed", Rule::TensorName, |file| file.tensors[1].name.clear()),
    ("tensor-long-name", Rule::TensorName, |file| file.tensors[1].name = vec![b'x'; 64]),
    ("tensor-newline", Rule::TensorName, |file| file.tensors[1].name = b"a\nb".to_vec()),
    ("tensor-not-utf8", Rule::TensorName, |file| file.tensors[1].name = vec![0xff; 4]),
    ("tensor-twice", Rule::DuplicateTensor, |file| file.tensors[1].name = b"token_embd.weight".to_vec()),
    ("axes-0", Rule::Axes, |file| file.tensors[3].axes.clear()),
    ("axes-5", Rule::Axes, |file| file.tensors[3].axes = vec![32, 1, 1, 1, 1]),
    ("axes-all-ones", Rule::Axes, |file| file.tensors[3].count = Some(u32::MAX)),
    ("extent-0", Rule::Extent, |file| file.tensors[3].axes = vec![0]),
    ("extent-0-inside", Rule::Extent, |file| file.tensors[3].axes = vec![32, 0, 32]),
    ("extent-2-to-63", Rule::Extent, |file| file.tensors[3].axes = vec![1 << 63]),
    ("extent-all-ones", Rule::Extent, |file| file.tensors[3].axes = vec![u64::MAX, 1]),
    ("type-4", Rule::ElementType, |file| file.tensors[3].kind = 4),
    ("type-5", Rule::ElementType, |file| file.tensors[3].kind = 5),
    ("type-31", Rule::ElementType, |file| file.tensors[3].kind = 31),
    ("type-38", Rule::ElementType, |file| file.tensors[3].kind = 38),
    ("type-43", Rule::ElementType, |file| file.tensors[3].kind = 43),
    ("type-all-ones", Rule::ElementType, |file| file.tensors[3].kind = u32::MAX),
    ("block-of-256", Rule::BlockSize, |file| file.tensors[1].kind = 12),
    ("block-of-32", Rule::BlockSize, |file| (file.tensors[3].kind, file.tensors[3].axes) = (2, vec![33])),
    ("size-2-to-64", Rule::TensorSize, |file| file.tensors[3].axes = vec![1 << 32, 1 << 32]),
    ("size-wraps", Rule::TensorSize, |file| file.tensors[3].axes = vec![1 << 62, 2, 2, 1]),
    ("size-signed", Rule::TensorSize, |file| file.tensors[3].axes = vec![1 << 61]),
    ("offset-odd", Rule::Misaligned, |file| file.tensors[1].offset += 1),
    ("offset-half", Rule::Misaligned, |file| file.tensors[1].offset += 16),
    ("offset-all-ones", Rule::Misaligned, |file| file.tensors[1].offset = u64::MAX),
    ("offset-0-twice", Rule::Overlap, |file| file.tensors[1].offset = 0),
    ("offset-inside", Rule::Overlap, |file| file.tensors[2].offset -= 32),
    ("offset-gap", Rule::Gap, |file| file.tensors[3].offset += 32),
    ("offset-huge", Rule::Gap, |file| file.tensors[3].offset = u64::MAX - 31),
    ("data-missing", Rule::PastEnd, |file| file.tensors[3].bytes = 0),
    ("data-one-byte-short", Rule::PastEnd, |file| file.tensors[3].bytes = 127),
    ("data-larger-than-file", Rule::PastEnd, |file| file.tensors[3].axes = vec![32, 1 << 40]),
    ("trailing-bytes", Rule::Trailing, |file| file.tail = vec![0; 33]),
    ("trailing-file", Rule::Trailing, |file| file.tail = Gguf::good().bytes()),
    ("no-embedding", Rule::MissingTensor, |file| file.tensors[0].name = b"embd".to_vec()),
    ("no-second-block", Rule::MissingTensor, |file| file.tensors[2].name = b"blk.0.attn_k.weight".to_vec()),
    ("no-tensors", Rule::Trailing, |file| file.tensor_count = Some(0)),
    ("block-beyond", Rule::KeyValue, |file| file.tensors[3].name = b"blk.2.norm".to_vec()),
    ("block-not-a-number", Rule::KeyValue, |file| file.tensors[3].name = b"blk.-1.norm".to_vec()),
];

const REQUIRED: [&str; 8] = [
    "general.architecture",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
];

pub(crate) fn all() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add =
        |name: String, rule, bytes| all.push(Hostile { name: format!("gguf-{name}"), file: "model.gguf", rule, bytes });
    for (name, rule, change) in CHANGES {
        let mut file = Gguf::good();
        change(&mut file);
        add((*name).to_owned(), *rule, file.bytes());
    }
    for key in REQUIRED {
        let mut file = Gguf::good();
        file.remove(key);
        add(format!("without-{}", key.replace(['.', '_'], "-")), Rule::MissingKey, file.bytes());
        let mut file = Gguf::good();
        file.set(key, BOOL, vec![1]);
        add(format!("bool-as-{}", key.replace(['.', '_'], "-")), Rule::KeyKind, file.bytes());
    }
    for key in &REQUIRED[1..6] {
        let mut file = Gguf::good();
        file.set(key, U32, vec![0; 4]);
        add(format!("zero-{}", key.replace(['.', '_'], "-")), Rule::KeyValue, file.bytes());
    }
    // Within the magic number, the counts, a key's length, a key, a value, a tensor's entry.
    let good = Gguf::good();
    let whole = good.bytes();
    let data: usize = good.tensors.iter().map(|tensor| tensor.bytes).sum();
    for cut in [1, 3, 5, 7, 9, 15, 20, 23] {
        add(format!("cut-at-{cut}"), Rule::Truncated, whole[..cut].to_vec());
    }
    for kept in [90, 200, 400, 600] {
        // The counts must still be possible, or they are what is refused.
        add(format!("cut-at-{kept}"), Rule::Truncated, whole[..kept].to_vec());
    }
    add("cut-before-the-data".to_owned(), Rule::PastEnd, whole[..whole.len() - data].to_vec());
    add("empty".to_owned(), Rule::Empty, Vec::new());
    all
}
