//! Tensors as one run of bytes, the form in which they lie in shared memory.
//!
//! A table: the number of tensors and the table's length as `u32`, then for each tensor its datatype and rank as
//! `u8`, six zero bytes, its length in bytes and its dimensions as `u64`. Then each tensor's bytes, each at the
//! next multiple of 64. All little-endian. Lengths that do not add up are refused, so the reader needs no trust.

use std::ops::Range;

use agentd_engine::TensorView;
use agentd_types::Datatype;

/// No request or answer has more tensors.
pub(crate) const MAX_TENSORS: usize = 1024;
const MAX_RANK: usize = 32;
const ALIGN: usize = 64;

/// The bytes do not make tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadFrame;

/// One tensor of a frame: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub datatype: Datatype,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// Where each tensor's bytes go, the table before them, and the length of all.
#[derive(Debug)]
pub(crate) struct Plan {
    pub table: Vec<u8>,
    pub offsets: Vec<usize>,
    pub len: usize,
}

/// Lays tensors out; `None` when there are too many or their lengths overflow.
pub(crate) fn plan(tensors: &[TensorView<'_>]) -> Option<Plan> {
    if tensors.len() > MAX_TENSORS {
        return None;
    }
    let table_len = tensors.iter().try_fold(8_usize, |sum, tensor| {
        (tensor.shape.len() <= MAX_RANK).then_some(sum + 16 + tensor.shape.len() * 8)
    })?;
    let mut table = Vec::with_capacity(table_len);
    table.extend(u32::try_from(tensors.len()).ok()?.to_le_bytes());
    table.extend(u32::try_from(table_len).ok()?.to_le_bytes());
    let mut offsets = Vec::with_capacity(tensors.len());
    let mut len = table_len;
    for tensor in tensors {
        let datatype = Datatype::ALL.iter().position(|datatype| *datatype == tensor.datatype)?;
        table.extend([
            u8::try_from(datatype).ok()?,
            u8::try_from(tensor.shape.len()).ok()?,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        table.extend((tensor.bytes.len() as u64).to_le_bytes());
        tensor.shape.iter().for_each(|dim| table.extend((*dim as u64).to_le_bytes()));
        let offset = len.checked_next_multiple_of(ALIGN)?;
        offsets.push(offset);
        len = offset.checked_add(tensor.bytes.len())?;
    }
    Some(Plan { table, offsets, len })
}

/// Reads the table of a frame and holds every length against the others, the shapes and the bytes there are.
pub(crate) fn read(frame: &[u8]) -> Result<Vec<Slot>, BadFrame> {
    let mut reader = Reader(frame);
    let (count, table_len) = (reader.u32()?, reader.u32()?);
    if count > MAX_TENSORS || table_len > frame.len() {
        return Err(BadFrame);
    }
    let mut slots = Vec::with_capacity(count);
    let mut end = table_len;
    for _ in 0..count {
        let [datatype, rank, ..] = reader.take::<8>()?;
        let datatype = *Datatype::ALL.get(usize::from(datatype)).ok_or(BadFrame)?;
        let len = reader.u64()?;
        if usize::from(rank) > MAX_RANK {
            return Err(BadFrame);
        }
        let shape = (0..rank).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
        let start = end.checked_next_multiple_of(ALIGN).ok_or(BadFrame)?;
        end = start.checked_add(len).ok_or(BadFrame)?;
        let bytes = frame.get(start..end).ok_or(BadFrame)?;
        TensorView { datatype, shape: &shape, bytes }.check().map_err(|_| BadFrame)?;
        slots.push(Slot { datatype, shape, range: start..end });
    }
    let read = frame.len() - reader.0.len();
    if read == table_len && end == frame.len() { Ok(slots) } else { Err(BadFrame) }
}

/// The tensors of a frame whose table was read, as views into it.
pub(crate) fn views<'a>(frame: &'a [u8], slots: &'a [Slot]) -> Vec<TensorView<'a>> {
    let view = |slot: &'a Slot| TensorView {
        datatype: slot.datatype,
        shape: &slot.shape,
        bytes: frame.get(slot.range.clone()).unwrap_or_default(),
    };
    slots.iter().map(view).collect()
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadFrame> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(BadFrame)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<usize, BadFrame> {
        usize::try_from(u32::from_le_bytes(self.take()?)).map_err(|_| BadFrame)
    }

    fn u64(&mut self) -> Result<usize, BadFrame> {
        usize::try_from(u64::from_le_bytes(self.take()?)).map_err(|_| BadFrame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_engine::Tensor;
    use proptest::prelude::*;

    fn written(tensors: &[TensorView<'_>]) -> Vec<u8> {
        let plan = plan(tensors).unwrap();
        let mut frame = vec![0; plan.len];
        frame[..plan.table.len()].copy_from_slice(&plan.table);
        for (offset, tensor) in plan.offsets.iter().zip(tensors) {
            frame[*offset..offset + tensor.bytes.len()].copy_from_slice(tensor.bytes);
        }
        frame
    }

    fn samples() -> Vec<Tensor> {
        vec![
            Tensor::from_f32(vec![2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            Tensor::new(Datatype::Bytes, vec![2], b"\x01\0\0\0a\0\0\0\0".to_vec()).unwrap(),
            Tensor::new(Datatype::Int64, vec![0, 4], vec![]).unwrap(),
            Tensor::new(Datatype::Bool, vec![], vec![1]).unwrap(),
        ]
    }

    #[test]
    fn tensors_read_back_from_their_frame() {
        let tensors = samples();
        for count in 0..=tensors.len() {
            let views: Vec<_> = tensors[..count].iter().map(Tensor::view).collect();
            let frame = written(&views);
            let slots = read(&frame).unwrap();
            let got: Vec<_> = super::views(&frame, &slots).iter().map(TensorView::to_tensor).collect();
            assert_eq!(got, tensors[..count]);
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_or_too_long_is_refused() {
        let tensors = samples();
        let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
        let mut frame = written(&views);
        for cut in 0..frame.len() {
            assert_eq!(read(&frame[..cut]), Err(BadFrame), "cut at {cut}");
        }
        frame.push(0);
        assert_eq!(read(&frame), Err(BadFrame));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail_or_point_outside(
            flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..8)
        ) {
            let tensors = samples();
            let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
            let mut frame = written(&views);
            for (at, byte) in flips {
                let at = at % frame.len();
                frame[at] = byte;
            }
            if let Ok(slots) = read(&frame) {
                for slot in slots {
                    prop_assert!(frame.get(slot.range).is_some());
                }
            }
        }
    }
}
