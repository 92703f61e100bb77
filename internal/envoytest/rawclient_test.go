package envoytest_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What no HTTP library would send.

// patience is how long an answer may take; a proxy that waits for more of a request answers nothing.
const patience = 5 * time.Second

// sendRaw writes bytes to addr and reads every answer until the end of the connection.
func sendRaw(t *testing.T, addr, request string) []*answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Logf("write: %v", err) // It may refuse before it has read everything.
	}
	method, _, _ := strings.Cut(request, " ")
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	in := bufio.NewReader(conn)
	var all []*answer
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return all
		}
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		all = append(all, &answer{resp.StatusCode, resp.Header, string(text)})
		if err != nil {
			return all
		}
		// More come only where one request was taken for two.
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	}
}

// h2 is a request over HTTP/2, field by field.
type h2 struct {
	fields []field
	// data are the frames of the body; nil: the headers end the stream.
	data     []string
	trailers []field
}

// sendHTTP2 sends it as stream 1 of a new connection. No answer at all is nil: the stream was reset, or the connection closed.
func sendHTTP2(t *testing.T, addr string, req h2) *answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	write := []func() error{
		func() error { _, err := io.WriteString(conn, http2.ClientPreface); return err },
		func() error { return framer.WriteSettings() },
		func() error {
			return framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, BlockFragment: encode(t, req.fields), EndHeaders: true, EndStream: req.data == nil && req.trailers == nil,
			})
		},
	}
	for i, data := range req.data {
		write = append(write, func() error {
			return framer.WriteData(1, i == len(req.data)-1 && req.trailers == nil, []byte(data))
		})
	}
	if req.trailers != nil {
		write = append(write, func() error {
			return framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, BlockFragment: encode(t, req.trailers), EndHeaders: true, EndStream: true,
			})
		})
	}
	for _, w := range write {
		if err := w(); err != nil {
			t.Logf("write: %v", err) // It may refuse before it has read everything.
			break
		}
	}
	return readHTTP2(framer)
}

func encode(t *testing.T, fields []field) []byte {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}); err != nil {
			t.Fatal(err)
		}
	}
	return block.Bytes()
}

func readHTTP2(framer *http2.Framer) *answer {
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var got *answer
	for {
		frame, err := framer.ReadFrame()
		var stream http2.StreamError
		if err != nil && !errors.As(err, &stream) {
			return got
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			status, _ := strconv.Atoi(f.PseudoValue("status"))
			got = &answer{status: status, header: http.Header{}}
			for _, h := range f.RegularFields() {
				got.header.Add(h.Name, h.Value)
			}
			if f.StreamEnded() {
				return got
			}
		case *http2.DataFrame:
			if got != nil {
				got.text += string(f.Data())
			}
			if f.StreamEnded() {
				return got
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return got
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = framer.WriteSettingsAck() // The read tells if the connection has gone.
			}
		}
	}
}
