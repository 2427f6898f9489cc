//! Why a model file is refused.

/// The longest part of a file's own text that is repeated in a refusal.
const MAX_QUOTED_CHARS: usize = 64;

/// Each rule with its text, which is also its documentation.
macro_rules! rules {
    ($($name:ident: $text:literal,)*) => {
        /// What a model file must not do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The rule in words.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    // Any file.
    Unreadable: "cannot be read",
    Missing: "is not there",
    Outside: "a path that leads out of its folder",
    Link: "a symbolic link, or below one",
    HardLink: "a file with more than one name",
    Kind: "not a plain file",
    Empty: "is empty",
    Length: "longer than the format allows",
    Sparse: "mostly holes: the file claims more than it holds",
    Truncated: "ends before what it announces",
    // GGUF.
    Magic: "does not begin as a GGUF file",
    Version: "a version of the format that is not supported",
    Endianness: "written for a big-endian machine",
    TensorCount: "an impossible number of tensors",
    KeyCount: "an impossible number of metadata entries",
    KeyName: "a metadata key that is empty, too long or not plain text",
    DuplicateKey: "a metadata key twice",
    ValueKind: "a metadata value of an unknown kind",
    NestedArray: "an array of arrays",
    ArrayLength: "an array that is too long",
    StringLength: "a text that is too long",
    Boolean: "a truth value that is neither 0 nor 1",
    MetadataSize: "metadata beyond its limit",
    Alignment: "an alignment that is no power of two from 8 to 65536",
    MissingKey: "a required metadata entry is missing",
    KeyKind: "a metadata entry of another kind than it must have",
    KeyValue: "a metadata entry out of its range",
    SplitFile: "a model in several files",
    Vocabulary: "numbers of tokens that contradict each other",
    TensorName: "a tensor name that is empty, too long or not plain text",
    DuplicateTensor: "a tensor twice",
    Axes: "a tensor with an impossible number of axes",
    Extent: "an axis of an impossible length",
    ElementType: "an element type that is unknown",
    BlockSize: "rows that are no whole number of quantised blocks",
    TensorSize: "a tensor whose size is beyond arithmetic",
    Misaligned: "tensor data that is not aligned",
    Overlap: "tensor data that overlaps other data",
    Gap: "tensor data that leaves a gap",
    PastEnd: "tensor data beyond the end of the file",
    Trailing: "bytes after the last tensor",
    MissingTensor: "a required tensor is missing",
    // ONNX.
    Varint: "a number that does not end or is too large",
    Tag: "a field number or wire type that is not valid",
    WireType: "a field of another wire type than the format says",
    FieldLength: "a field that is longer than what contains it",
    Text: "a text that is too long or not UTF-8",
    Repeated: "a field twice that may be there once",
    Nesting: "nested too deeply",
    NoGraph: "there is no graph",
    IrVersion: "a version of the representation that is not supported",
    Opset: "an operator set that is missing, twice, or not supported",
    Domain: "an operator of an unknown domain",
    NodeCount: "more nodes than any model has",
    NameBytes: "more text in names than any model has",
    Name: "a name that is missing",
    DuplicateName: "a value twice",
    Undefined: "a value that nothing makes",
    Cycle: "nodes that wait for each other",
    Attribute: "an attribute that contradicts its type, or is there twice",
    Port: "an input or output without a usable type",
    TensorData: "tensor data of another length than its shape",
    ExternalData: "data in another file",
    SparseTensor: "a sparse tensor, which is not offered",
    Segment: "a tensor in segments, which is not offered",
    Training: "a training graph, which is not offered",
    DuplicateFunction: "a function twice, or one of a standard domain",
    Recursion: "functions that call themselves",
    Expansion: "functions that become more nodes than any model has",
    Amplification: "a constant shape of more elements than any tensor has",
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A model file that no engine will see. Its text may be shown to a caller: it holds no path, and what it repeats of the
/// file is short and escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}, at byte {offset}: {rule}")]
pub struct Refusal {
    /// What the file broke.
    pub rule: Rule,
    /// The part of the file.
    pub place: String,
    /// How far into the file, in bytes.
    pub offset: u64,
}

impl Refusal {
    pub(super) fn new(rule: Rule, place: impl Into<String>, offset: u64) -> Self {
        Self { rule, place: place.into(), offset }
    }
}

impl From<Refusal> for crate::Error {
    fn from(refusal: Refusal) -> Self {
        Self::Load(refusal.to_string())
    }
}

/// Text of the file, as it may be repeated.
pub(super) fn quoted(text: &str) -> String {
    let mut result: String = text.chars().take(MAX_QUOTED_CHARS).flat_map(char::escape_default).collect();
    if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
        result.push_str("...");
    }
    result
}
