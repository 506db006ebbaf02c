package wire

import (
	"fmt"
	"unicode/utf8"

	"drvsock/internal/errno"
)

const (
	answerStat = 1 // what lies there: statOther, statSocket or statDir
	answerSize = 2
	answerAddr = 3

	statOther  = 1
	statSocket = 2
	statDir    = 3

	refusalErrno  = 1
	refusalLayer  = 2
	refusalSystem = 3
	refusalText   = 4
)

// Append appends the answer to b.
func (a *Answer) Append(b []byte) []byte {
	if a.Stat != nil {
		what := uint64(statOther)
		switch {
		case a.Stat.Socket:
			what = statSocket
		case a.Stat.Dir:
			what = statDir
		}
		b = appendUint(b, answerStat, 1, what)
		b = appendUint(b, answerSize, 8, a.Stat.Size)
	}
	return appendBytes(b, answerAddr, a.Address)
}

// ParseAnswer reads the payload of an ACCEPT frame.
func ParseAnswer(b []byte) (Answer, error) {
	var a Answer
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case answerStat:
			what := f.uint(1)
			if f.err == nil && what > statDir {
				f.err = fmt.Errorf("field %d is %d, limit %d", f.tag, what, statDir)
			}
			a.Stat = &Stat{Socket: what == statSocket, Dir: what == statDir}
		case answerSize:
			size := f.uint(8)
			if a.Stat == nil {
				f.err = fmt.Errorf("size without a stat")
				break
			}
			a.Stat.Size = size
		case answerAddr:
			a.Address = f.bytes(MaxPath)
		}
	}
	if f.err != nil {
		return Answer{}, fmt.Errorf("answer: %w", f.err)
	}
	return a, nil
}

// AppendRefusal appends r to b. A sentence that is too long is cut.
func AppendRefusal(b []byte, r *Refusal) []byte {
	b = appendUint(b, refusalErrno, 2, uint64(r.Errno))
	b = appendUint(b, refusalLayer, 1, uint64(r.Layer))
	b = appendUint(b, refusalSystem, 4, uint64(r.System))
	return appendBytes(b, refusalText, cut(r.Text, MaxText))
}

// ParseRefusal reads the payload of a REFUSE, STOP, RESET, GOAWAY or END
// frame that has one.
func ParseRefusal(b []byte) (*Refusal, error) {
	r := new(Refusal)
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case refusalErrno:
			r.Errno = errno.Errno(f.uint(2))
		case refusalLayer:
			r.Layer = errno.Layer(f.uint(1))
		case refusalSystem:
			r.System = uint32(f.uint(4))
		case refusalText:
			r.Text = string(f.bytes(MaxText))
		}
	}
	if f.err != nil {
		return nil, fmt.Errorf("refusal: %w", f.err)
	}
	if r.Errno == 0 {
		return nil, fmt.Errorf("refusal without a number")
	}
	return r, nil
}

// cut shortens s to at most n bytes, not within a character of UTF-8.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n]
}
