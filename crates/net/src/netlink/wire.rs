//! The outer form of netlink messages: datagrams of several messages, acknowledgements with explanations.
//!
//! Read by hand because an answer has to be found among late ones by its sequence number, and because the
//! kernel's explanation (extended acknowledgement) is worth more than an errno.

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_BASE: u16 = 16;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The end of a conversation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 0, or a positive errno.
    pub(super) errno: i32,
    /// What the kernel says about it.
    pub(super) explanation: Option<String>,
}

/// Writes the sequence number into an encoded request.
pub(super) fn set_sequence(request: &mut [u8], sequence: u32) {
    request[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

/// Goes through one datagram; hands data of our request to `on_data` and returns the answer if it is in there.
pub(super) fn read_datagram(
    mut datagram: &[u8],
    sequence: u32,
    on_data: &mut impl FnMut(u16, &[u8]),
) -> Option<Answer> {
    while datagram.len() >= HEADER {
        let len = u32_at(datagram, 0) as usize;
        if len < HEADER || len > datagram.len() {
            break;
        }
        let (kind, flags) = (u16_at(datagram, 4), u16_at(datagram, 6));
        let payload = &datagram[HEADER..len];
        if u32_at(datagram, 8) == sequence {
            match kind {
                NLMSG_ERROR if payload.len() >= 4 => return Some(read_error(payload, flags)),
                NLMSG_DONE => {
                    let errno = if payload.len() >= 4 { -(u32_at(payload, 0).cast_signed()) } else { 0 };
                    return Some(Answer { errno: errno.max(0), explanation: None });
                }
                RTM_BASE.. => on_data(kind, payload),
                _ => {}
            }
        }
        datagram = &datagram[align(len).min(datagram.len())..];
    }
    None
}

fn read_error(payload: &[u8], flags: u16) -> Answer {
    let errno = -(u32_at(payload, 0).cast_signed());
    let mut explanation = None;
    if flags & NLM_F_ACK_TLVS != 0 && payload.len() >= 4 + HEADER {
        let echoed = if flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(payload, 4) as usize };
        let tlvs = payload.get(4 + align(echoed)..).unwrap_or(&[]);
        explanation = attributes(tlvs)
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
            .map(|(_, value)| text(value))
            .filter(|t| !t.is_empty());
    }
    Answer { errno, explanation }
}

/// The attributes (type without flags, value) in a run of them; stops at the first that is cut off.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = if bytes.len() >= 4 { usize::from(u16_at(bytes, 0)) } else { 0 };
        if len < 4 || len > bytes.len() {
            return None;
        }
        let item = (u16_at(bytes, 2) & 0x3fff, &bytes[4..len]);
        bytes = &bytes[align(len).min(bytes.len())..];
        Some(item)
    })
}

/// A string attribute without its terminating zero.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// A 32-bit attribute; 0 if it is too short.
pub(super) fn number(value: &[u8]) -> u32 {
    if value.len() >= 4 { u32_at(value, 0) } else { 0 }
}

/// The 32 bits at an offset, in the host's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        m.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(flags.to_ne_bytes());
        m.extend(sequence.to_ne_bytes());
        m.extend([0; 4]);
        m.extend(payload);
        m.resize(align(m.len()), 0);
        m
    }

    #[test]
    fn an_error_carries_the_kernels_explanation() {
        let mut payload = (-17i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend(10u16.to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(b"taken\0");
        let m = message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, 5, &payload);
        let answer = read_datagram(&m, 5, &mut |_, _| ());
        assert_eq!(answer, Some(Answer { errno: 17, explanation: Some("taken".into()) }));
    }

    #[test]
    fn a_late_answer_to_another_request_is_passed_over() {
        let mut m = message(NLMSG_ERROR, 0, 4, &(-2i32).to_ne_bytes());
        m.extend(message(20, 0, 5, &[1, 2, 3]));
        m.extend(message(NLMSG_ERROR, 0, 5, &0i32.to_ne_bytes()));
        let mut data = Vec::new();
        let answer = read_datagram(&m, 5, &mut |kind, p| data.push((kind, p.to_vec())));
        assert_eq!(answer, Some(Answer { errno: 0, explanation: None }));
        assert_eq!(data, [(20, vec![1, 2, 3])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), sequence: u32) {
            let _ = read_datagram(&bytes, sequence, &mut |_, p| { attributes(p).for_each(drop); });
            attributes(&bytes).for_each(drop);
        }
    }
}
