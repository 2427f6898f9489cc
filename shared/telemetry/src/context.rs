//! W3C Trace Context (level 1) and Baggage: read strictly, carried unchanged, written on the next hop.

use http::header::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The recommendation asks for at least this much of `tracestate` to be passed on.
const MAX_STATE: usize = 512;
/// The limit that the Baggage recommendation gives for all members together.
const MAX_BAGGAGE: usize = 8192;
/// `00-<32 hex>-<16 hex>-<2 hex>`.
const TRACEPARENT_LEN: usize = 55;

/// Where a call stands in its trace: the trace, the span that is the parent of what comes next, and what travels along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
    state: Option<HeaderValue>,
    baggage: Option<HeaderValue>,
}

impl TraceContext {
    /// The context of a span in a trace; `None` when an id is all zeros, which the recommendation forbids.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Option<Self> {
        let valid = trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self::of(trace_id, span_id, sampled))
    }

    /// The context of ids that are known to be valid, because they were generated.
    pub(crate) const fn of(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Self {
        Self { trace_id, span_id, sampled, state: None, baggage: None }
    }

    /// The caller's context; `None` when `traceparent` is absent, repeated or malformed, in which case a new trace begins.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let context = parse(value.as_bytes())?;
        Some(Self { state: joined(headers, &TRACESTATE, MAX_STATE), ..context }.with_baggage(headers))
    }

    /// The same context with the caller's baggage, which may come without a trace.
    pub(crate) fn with_baggage(self, headers: &HeaderMap) -> Self {
        Self { baggage: joined(headers, &BAGGAGE, MAX_BAGGAGE), ..self }
    }

    /// Writes the context into the headers of an outgoing call, over whatever they held.
    pub fn inject(&self, headers: &mut HeaderMap) {
        // Fixed-length ASCII is always a header value; the alternative to this branch would be a panic.
        if let Ok(mut value) = HeaderValue::from_bytes(&self.encoded()) {
            // No other call has it: in HPACK's table it would only displace what calls have in common (RFC 7541, section 6.2.3).
            value.set_sensitive(true);
            headers.insert(TRACEPARENT, value);
        }
        for (name, value) in [(TRACESTATE, &self.state), (BAGGAGE, &self.baggage)] {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                None => drop(headers.remove(name)),
            }
        }
    }

    /// The trace's id as 32 hexadecimal digits, as it is looked up and logged.
    pub fn trace_id(&self) -> String {
        hex(&self.trace_id)
    }

    /// The span's id as 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        hex(&self.span_id)
    }

    /// Whether the trace is being recorded.
    pub const fn sampled(&self) -> bool {
        self.sampled
    }

    /// The `tracestate` of other vendors, at most 512 bytes.
    pub fn state(&self) -> Option<&str> {
        self.state.as_ref()?.to_str().ok()
    }

    /// The `baggage` of the caller, at most 8 KiB.
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_ref()?.to_str().ok()
    }

    pub(crate) const fn ids(&self) -> ([u8; 16], [u8; 8]) {
        (self.trace_id, self.span_id)
    }

    /// The context of a child span: the same trace and the same luggage.
    pub(crate) fn child(&self, span_id: [u8; 8], sampled: bool) -> Self {
        Self { span_id, sampled, ..self.clone() }
    }

    fn encoded(&self) -> [u8; TRACEPARENT_LEN] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        encode(&self.trace_id, &mut text[3..35]);
        encode(&self.span_id, &mut text[36..52]);
        text[54] = if self.sampled { b'1' } else { b'0' };
        text
    }
}

/// Reads version `00` exactly, and of a later version what version `00` defines, as the recommendation asks.
fn parse(text: &[u8]) -> Option<TraceContext> {
    let (head, rest) = text.split_at_checked(TRACEPARENT_LEN)?;
    if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return None;
    }
    let [version] = decode::<1>(&head[..2])?;
    let [flags] = decode::<1>(&head[53..])?;
    let rest_fits = match version {
        0xff => false,
        0 => rest.is_empty(),
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    if !rest_fits {
        return None;
    }
    TraceContext::new(decode(&head[3..35])?, decode(&head[36..52])?, flags & 1 == 1)
}

/// Every value of a list header as one, cut after the last whole member that fits `limit`; `None` when nothing is left.
fn joined(headers: &HeaderMap, name: &HeaderName, limit: usize) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut rest = values.peekable();
    if rest.peek().is_none() && first.len() <= limit {
        // The common case shares the received bytes.
        return first.to_str().is_ok_and(|text| !text.trim().is_empty()).then(|| first.clone());
    }
    let mut list = String::new();
    let texts = std::iter::once(first).chain(rest).map_while(|value| value.to_str().ok());
    for member in texts.flat_map(|text| text.split(',')).map(str::trim).filter(|member| !member.is_empty()) {
        let separator = usize::from(!list.is_empty());
        if list.len() + separator + member.len() > limit {
            break;
        }
        if separator == 1 {
            list.push(',');
        }
        list.push_str(member);
    }
    if list.is_empty() { None } else { HeaderValue::try_from(list).ok() }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn encode(bytes: &[u8], text: &mut [u8]) {
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Lower-case digits only: the recommendation refuses the others.
fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn reads_what_the_recommendation_shows() {
        let context = TraceContext::from_headers(&headers(&[("traceparent", GOOD)])).expect("valid");
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id(), "00f067aa0ba902b7");
        assert!(context.sampled());
        let unsampled = GOOD.replace("-01", "-00");
        assert!(!TraceContext::from_headers(&headers(&[("traceparent", &unsampled)])).expect("valid").sampled());
    }

    #[test]
    fn a_later_version_is_read_by_its_known_part() {
        let later = GOOD.replacen("00-", "cc-", 1);
        for good in [later.clone(), format!("{later}-what-the-future-holds")] {
            assert!(TraceContext::from_headers(&headers(&[("traceparent", &good)])).is_some(), "{good}");
        }
        assert!(TraceContext::from_headers(&headers(&[("traceparent", &format!("{later}.x"))])).is_none());
    }

    #[test]
    fn refuses_what_is_malformed() {
        let bad = [
            String::new(),
            "garbage".into(),
            GOOD.to_uppercase(),
            GOOD.replacen("00-", "ff-", 1),
            format!("{GOOD}-extra"),
            format!(" {GOOD}x"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD[..54].into(),
        ];
        for text in bad {
            assert!(TraceContext::from_headers(&headers(&[("traceparent", &text)])).is_none(), "{text:?} was accepted");
        }
        assert!(TraceContext::from_headers(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])).is_none());
    }

    #[test]
    fn luggage_is_joined_and_cut_between_members() {
        let long = format!("a={}", "x".repeat(400));
        let received = headers(&[
            ("traceparent", GOOD),
            ("tracestate", &long),
            ("tracestate", &format!("b=2,{long}")),
            ("baggage", "user=1;p,team=2"),
        ]);
        let context = TraceContext::from_headers(&received).expect("valid");
        assert_eq!(context.state(), Some(format!("{long},b=2").as_str()));
        assert_eq!(context.baggage(), Some("user=1;p,team=2"));
        let mut sent = headers(&[("traceparent", "old"), ("tracestate", "old=1")]);
        context.child([7; 8], true).inject(&mut sent);
        assert_eq!(sent["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-0707070707070707-01");
        assert_eq!(sent["tracestate"], format!("{long},b=2"));
        assert_eq!(sent["baggage"], "user=1;p,team=2");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = TraceContext::new(trace_id, span_id, sampled).expect("valid ids");
            let mut sent = HeaderMap::new();
            context.inject(&mut sent);
            prop_assert_eq!(TraceContext::from_headers(&sent), Some(context));
        }

        /// Whatever comes in, an answer comes out, and what is accepted is what would be written.
        #[test]
        fn any_text_is_an_answer(text in "[0-9a-fA-F-]{50,60}|[ -~]{0,80}") {
            if let Some(context) = TraceContext::from_headers(&headers(&[("traceparent", &text)])) {
                let (trace_id, span_id) = (context.trace_id(), context.span_id());
                prop_assert_eq!(&text.trim()[3..35], trace_id.as_str());
                prop_assert_eq!(&text.trim()[36..52], span_id.as_str());
            }
        }

        #[test]
        fn luggage_is_bounded(members in proptest::collection::vec("[a-z]{1,9}=[ -+--~]{0,300}", 0..60)) {
            let mut received = headers(&[("traceparent", GOOD)]);
            for member in &members {
                received.append("tracestate", member.parse().expect("printable"));
                received.append("baggage", member.parse().expect("printable"));
            }
            let context = TraceContext::from_headers(&received).expect("valid");
            prop_assert!(context.state().is_none_or(|state| state.len() <= MAX_STATE));
            prop_assert!(context.baggage().is_none_or(|baggage| baggage.len() <= MAX_BAGGAGE));
        }
    }
}
