//! The send queue of a stream socket: all sends in order, one kernel operation at a time.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::CancelGrade;

/// A send that waits or is being written.
#[derive(Debug)]
pub(crate) struct SendOp {
    pub(crate) serial: u64,
    /// Success is not reported.
    pub(crate) quiet: bool,
    total: usize,
    left: usize,
    segments: usize,
    cancel: Option<CancelGrade>,
}

impl SendOp {
    /// How many of its bytes are in the kernel.
    pub(crate) fn written(&self) -> usize {
        self.total - self.left
    }

    /// Whether all of its bytes are in the kernel.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }
}

/// What became of a request to cancel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CancelOutcome {
    /// No such operation, or the grade cannot be kept.
    Refused,
    /// The queue was changed; what was taken out is in `removed`.
    Done,
    /// The kernel has it: cancel the kernel's operation, the rest follows when that is done.
    InKernel,
}

/// Sends in order of issue. `locked` bytes at the head belong to a kernel operation and are not touched.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    segments: VecDeque<Bytes>,
    ops: VecDeque<SendOp>,
    queued: usize,
    locked: usize,
    /// From this operation on, nothing may be sent any more.
    cut_at: Option<u64>,
}

impl SendQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes that are not in the kernel.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn push(&mut self, serial: u64, quiet: bool, data: impl IntoIterator<Item = Bytes>) {
        if self.ops.capacity() == 0 {
            // Most sockets have one small send at a time, and of most there are many.
            self.ops.reserve_exact(1);
            self.segments.reserve_exact(1);
        }
        let (mut total, mut segments) = (0, 0);
        for segment in data {
            if !segment.is_empty() {
                total += segment.len();
                segments += 1;
                self.segments.push_back(segment);
            }
        }
        self.queued += total;
        self.ops.push_back(SendOp { serial, quiet, total, left: total, segments, cancel: None });
    }

    /// The segments at the head, at most `segments` of them and about `bytes` bytes, for one kernel operation.
    pub(crate) fn head(&self, segments: usize, bytes: usize) -> impl Iterator<Item = &[u8]> {
        let mut room = bytes;
        self.segments.iter().take(segments).map_while(move |segment| {
            let slice = (room > 0).then_some(&segment[..]);
            room = room.saturating_sub(segment.len());
            slice
        })
    }

    /// Whether all that is queued is silent on success.
    pub(crate) fn is_quiet(&self) -> bool {
        self.ops.iter().all(|op| op.quiet)
    }

    /// Bytes in a kernel operation.
    pub(crate) fn locked(&self) -> usize {
        self.locked
    }

    /// Whether a kernel operation is under way.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked > 0
    }

    /// Marks `bytes` at the head as being in a kernel operation.
    pub(crate) fn lock(&mut self, bytes: usize) {
        self.locked = bytes;
    }

    /// Takes `written` bytes off the head and hands out the operations that are complete.
    pub(crate) fn advance(&mut self, written: usize, mut done: impl FnMut(SendOp)) {
        self.locked = 0;
        let mut written = written.min(self.queued);
        self.queued -= written;
        while let Some(op) = self.ops.front_mut() {
            let mut taken = written.min(op.left);
            op.left -= taken;
            written -= taken;
            while taken > 0 {
                let Some(segment) = self.segments.front_mut() else { break };
                if segment.len() <= taken {
                    taken -= segment.len();
                    op.segments -= 1;
                    self.segments.pop_front();
                } else {
                    segment.advance(taken);
                    taken = 0;
                }
            }
            if op.left > 0 {
                break;
            }
            if let Some(op) = self.ops.pop_front() {
                done(op);
            }
        }
        if self.ops.is_empty() {
            // A burst must not leave its memory with an idle socket.
            self.segments.shrink_to(32);
            self.ops.shrink_to(32);
        }
    }

    /// Asks to take an operation out. Operations taken out are handed to `removed`.
    pub(crate) fn cancel(
        &mut self,
        serial: u64,
        grade: CancelGrade,
        removed: impl FnMut(SendOp),
    ) -> CancelOutcome {
        let Ok(index) = self.ops.binary_search_by_key(&serial, |op| op.serial) else {
            return CancelOutcome::Refused;
        };
        let before: usize = self.ops.iter().take(index).map(|op| op.left).sum();
        let in_kernel = self.locked > 0 && before < self.locked;
        let untouched = self.ops[index].written() == 0 && !in_kernel;
        match grade {
            CancelGrade::Total if !untouched => return CancelOutcome::Refused,
            CancelGrade::Terminal => {
                self.cut_at = Some(self.cut_at.map_or(serial, |at| at.min(serial)));
            }
            CancelGrade::Partial | CancelGrade::Total => {}
        }
        self.ops[index].cancel = Some(grade);
        if in_kernel {
            return CancelOutcome::InKernel;
        }
        self.sweep(removed);
        CancelOutcome::Done
    }

    /// Takes out what was asked to be cancelled and is not in a kernel operation.
    pub(crate) fn sweep(&mut self, mut removed: impl FnMut(SendOp)) {
        let (mut op_index, mut segment_index, mut offset) = (0, 0, 0);
        while let Some(op) = self.ops.get(op_index) {
            let cut = self.cut_at.is_some_and(|at| op.serial >= at);
            let locked = self.locked > 0 && offset < self.locked;
            if (!cut && op.cancel.is_none()) || locked {
                offset += op.left;
                segment_index += op.segments;
                op_index += 1;
                continue;
            }
            let segments = op.segments;
            self.segments.drain(segment_index..segment_index + segments);
            if let Some(op) = self.ops.remove(op_index) {
                self.queued -= op.left;
                removed(op);
            }
        }
    }

    /// Takes out everything. Nothing may be in a kernel operation.
    pub(crate) fn clear(&mut self, mut removed: impl FnMut(SendOp)) {
        self.segments.clear();
        self.queued = 0;
        self.locked = 0;
        self.ops.drain(..).for_each(&mut removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(sizes: &[usize]) -> SendQueue {
        let mut queue = SendQueue::default();
        for (i, size) in sizes.iter().enumerate() {
            // Each send is made of pieces of three bytes.
            let data = Bytes::from(vec![i as u8; *size]);
            let pieces = (0..*size).step_by(3).map(|at| data.slice(at..(at + 3).min(*size)));
            queue.push(i as u64, false, pieces);
        }
        queue
    }

    fn content(queue: &SendQueue) -> Vec<u8> {
        queue.head(usize::MAX, usize::MAX).flatten().copied().collect()
    }

    #[test]
    fn writing_any_amounts_completes_each_send_once_in_order() {
        for step in 1..20 {
            let mut queue = queue(&[5, 0, 1, 12, 0]);
            let (mut done, mut bytes) = (Vec::new(), Vec::new());
            while !queue.is_empty() {
                let head = content(&queue);
                let n = step.min(head.len());
                bytes.extend_from_slice(&head[..n]);
                queue.advance(n, |op| {
                    assert!(op.is_complete());
                    done.push(op.serial);
                });
            }
            assert_eq!(done, [0, 1, 2, 3, 4]);
            assert_eq!(bytes, [vec![0; 5], vec![2; 1], vec![3; 12]].concat());
            assert_eq!(queue.queued(), 0);
        }
    }

    #[test]
    fn a_total_cancel_takes_one_send_out_and_is_refused_once_a_byte_is_written() {
        let mut queue = queue(&[4, 4, 4]);
        let mut removed = Vec::new();
        assert_eq!(
            queue.cancel(1, CancelGrade::Total, |op| removed.push(op.serial)),
            CancelOutcome::Done
        );
        assert_eq!(removed, [1]);
        assert_eq!(content(&queue), [0, 0, 0, 0, 2, 2, 2, 2]);
        queue.advance(1, |_| panic!("nothing is complete"));
        assert_eq!(queue.cancel(0, CancelGrade::Total, |_| panic!()), CancelOutcome::Refused);
        assert_eq!(queue.cancel(1, CancelGrade::Total, |_| panic!()), CancelOutcome::Refused);
    }

    #[test]
    fn a_partial_cancel_reports_what_was_written_and_the_next_send_follows() {
        let mut queue = queue(&[7, 2]);
        queue.advance(4, |_| panic!("nothing is complete"));
        let mut written = None;
        assert_eq!(
            queue.cancel(0, CancelGrade::Partial, |op| written = Some(op.written())),
            CancelOutcome::Done
        );
        assert_eq!(written, Some(4));
        assert_eq!(content(&queue), [1, 1]);
    }

    #[test]
    fn a_terminal_cancel_takes_out_that_send_and_all_behind_it() {
        let mut queue = queue(&[2, 2, 2]);
        let mut removed = Vec::new();
        queue.cancel(1, CancelGrade::Terminal, |op| removed.push(op.serial));
        assert_eq!(removed, [1, 2]);
        assert_eq!(content(&queue), [0, 0]);
    }

    #[test]
    fn what_the_kernel_has_is_not_touched_until_it_is_done() {
        let mut queue = queue(&[4, 4, 4]);
        queue.lock(6);
        assert_eq!(queue.cancel(1, CancelGrade::Total, |_| panic!()), CancelOutcome::Refused);
        assert_eq!(queue.cancel(1, CancelGrade::Partial, |_| panic!()), CancelOutcome::InKernel);
        assert_eq!(queue.cancel(2, CancelGrade::Total, |_| ()), CancelOutcome::Done);
        let mut done = Vec::new();
        queue.advance(5, |op| done.push(op.serial));
        assert_eq!(done, [0]);
        let mut swept = Vec::new();
        queue.sweep(|op| swept.push((op.serial, op.written())));
        assert_eq!(swept, [(1, 1)]);
        assert!(queue.is_empty());
        assert_eq!(queue.queued(), 0);
    }
}
