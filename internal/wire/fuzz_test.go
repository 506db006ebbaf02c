package wire

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// known takes the fields above last out of b, which has passed a parser.
func known(b []byte, last uint8) []byte {
	var out []byte
	for len(b) > 0 {
		n := 3 + int(binary.BigEndian.Uint16(b[1:]))
		if b[0] <= last {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

func FuzzHeader(f *testing.F) {
	for t := TypeOpen; t <= TypeGoaway; t++ {
		f.Add(Header{Type: t, Stream: uint32(t), Length: 8}.Append(nil))
		f.Add(Header{Type: t, Length: 8}.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		if got := h.Append(nil); !bytes.Equal(got, b[:HeaderSize]) {
			t.Errorf("header % x came back as % x", b[:HeaderSize], got)
		}
	})
}

func FuzzHello(f *testing.F) {
	for _, h := range hellos {
		f.Add(h.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHello(b)
		if err != nil {
			return
		}
		// The length in front differs where unknown fields were left out.
		got := h.Append(nil)
		want := append(append([]byte(nil), b[:HelloSize]...), known(b[HelloSize:], helloArch)...)
		binary.BigEndian.PutUint16(want[HelloSize-2:], uint16(len(want)-HelloSize))
		if !bytes.Equal(got, want) {
			t.Errorf("hello %q came back as %q", want, got)
		}
	})
}

func FuzzRequest(f *testing.F) {
	for _, r := range requests {
		b, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			return
		}
		got, err := r.Append(nil)
		if want := known(b, requestSecret); err != nil || !bytes.Equal(got, want) {
			t.Errorf("request %q came back as %q, %v", want, got, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, a := range answers {
		f.Add(a.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b)
		if err != nil {
			return
		}
		if got, want := a.Append(nil), known(b, answerAddr); !bytes.Equal(got, want) {
			t.Errorf("answer %q came back as %q", want, got)
		}
	})
}

func FuzzRefusal(f *testing.F) {
	for _, r := range refusals {
		f.Add(AppendRefusal(nil, &r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRefusal(b)
		if err != nil {
			return
		}
		if got, want := AppendRefusal(nil, r), known(b, refusalText); !bytes.Equal(got, want) {
			t.Errorf("refusal %q came back as %q", want, got)
		}
	})
}
