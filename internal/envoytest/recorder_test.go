package envoytest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// received is a request as it arrived at the upstream, nothing of it interpreted.
type received struct {
	proto     string
	method    string
	target    string // what stands where the path does
	authority string
	fields    []field
	trailers  []field // no upstream of sense reads them as headers
	body      []byte
}

// field is one header field.
type field struct{ name, value string }

// values are those of all fields of a name, in order.
func (r *received) values(name string) []string {
	var all []string
	for _, f := range r.fields {
		if f.name == name {
			all = append(all, f.value)
		}
	}
	return all
}

// recorder is an upstream that takes whatever comes, without a library that
// would refuse or repair it, and answers everything with 200. What it cannot
// even cut into requests it keeps as the method "?".
type recorder struct {
	addr string

	mu  sync.Mutex
	all []received
}

func startRecorder(t *testing.T) *recorder {
	t.Helper()
	lis := testkit.Listen(t)
	r := &recorder{addr: lis.Addr().String()}
	var group sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	group.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			group.Go(func() {
				defer conn.Close()
				r.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		lis.Close()
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return r
}

func (r *recorder) note(got received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, got)
}

// since are the requests that came after the first n.
func (r *recorder) since(n int) []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.all[n:]...)
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

func (r *recorder) serve(conn net.Conn) {
	in := bufio.NewReader(conn)
	if start, err := in.Peek(len(http2.ClientPreface)); err == nil && string(start) == http2.ClientPreface {
		_, _ = in.Discard(len(start)) // It was just seen.
		r.serveHTTP2(conn, in)
		return
	}
	for {
		got, err := readHTTP1(in)
		if err != nil {
			if got.method != "" {
				r.note(got)
			}
			return
		}
		r.note(got)
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// readHTTP1 cuts one request off. An error with a method means that some of a request came.
func readHTTP1(in *bufio.Reader) (received, error) {
	got := received{proto: "1"}
	line, err := in.ReadString('\n')
	if err != nil {
		if line != "" {
			got.method, got.target = "?", line
		}
		return got, err
	}
	var rest string
	got.method, rest, _ = strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	if i := strings.LastIndexByte(rest, ' '); i >= 0 {
		got.target = rest[:i]
	}
	length, chunked := 0, false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return got, err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		f := field{strings.ToLower(name), strings.TrimSpace(value)}
		got.fields = append(got.fields, f)
		switch f.name {
		case "host":
			got.authority = f.value
		case "content-length":
			if length, err = strconv.Atoi(f.value); err != nil {
				return got, err
			}
		case "transfer-encoding":
			chunked = true
		}
	}
	if chunked {
		got.body, err = readChunks(in)
		return got, err
	}
	got.body = make([]byte, length)
	_, err = io.ReadFull(in, got.body)
	return got, err
}

func readChunks(in *bufio.Reader) ([]byte, error) {
	var body bytes.Buffer
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return body.Bytes(), err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return body.Bytes(), err
		}
		if size == 0 {
			break
		}
		if _, err := io.CopyN(&body, in, size); err != nil {
			return body.Bytes(), err
		}
		if _, err := in.Discard(2); err != nil {
			return body.Bytes(), err
		}
	}
	// Trailers, to the empty line.
	for {
		line, err := in.ReadString('\n')
		if err != nil || strings.TrimRight(line, "\r\n") == "" {
			return body.Bytes(), err
		}
	}
}

// serveHTTP2 takes the frames of one connection.
func (r *recorder) serveHTTP2(conn net.Conn, in io.Reader) {
	framer := http2.NewFramer(conn, in)
	framer.AllowIllegalReads = true
	decoder := hpack.NewDecoder(4096, nil)
	streams := map[uint32]*received{}
	var block []byte
	if framer.WriteSettings() != nil {
		return
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		id, ends := frame.Header().StreamID, frame.Header().Flags.Has(http2.FlagDataEndStream)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() && framer.WriteSettingsAck() != nil {
				return
			}
			continue
		case *http2.PingFrame:
			if !f.IsAck() && framer.WritePing(true, f.Data) != nil {
				return
			}
			continue
		case *http2.HeadersFrame:
			block = append(block[:0], f.HeaderBlockFragment()...)
			if !f.HeadersEnded() {
				continue
			}
		case *http2.ContinuationFrame:
			block = append(block, f.HeaderBlockFragment()...)
			if !f.HeadersEnded() {
				continue
			}
		case *http2.DataFrame:
			if got := streams[id]; got != nil {
				got.body = append(got.body, f.Data()...)
			}
			block = nil
			if n := f.Header().Length; n > 0 && (framer.WriteWindowUpdate(0, n) != nil || framer.WriteWindowUpdate(id, n) != nil) {
				return
			}
		default:
			continue
		}
		if block != nil {
			r.headers(streams, id, decoder, block)
			block = nil
		}
		if got := streams[id]; got != nil && ends {
			r.note(*got)
			delete(streams, id)
			if answer200(framer, id) != nil {
				return
			}
		}
	}
}

// headers files a block of fields: those of a new stream, or trailers.
func (r *recorder) headers(streams map[uint32]*received, id uint32, decoder *hpack.Decoder, block []byte) {
	fields, err := decoder.DecodeFull(block)
	if err != nil {
		r.note(received{proto: "2", method: "?", target: fmt.Sprint(err)})
		return
	}
	got := streams[id]
	if got != nil {
		for _, f := range fields {
			got.trailers = append(got.trailers, field{f.Name, f.Value})
		}
		return
	}
	got = &received{proto: "2"}
	streams[id] = got
	for _, f := range fields {
		switch f.Name {
		case ":method":
			got.method = f.Value
		case ":path":
			got.target = f.Value
		case ":authority":
			got.authority = f.Value
		}
		got.fields = append(got.fields, field{f.Name, f.Value})
	}
}

func answer200(framer *http2.Framer, id uint32) error {
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"}); err != nil {
		return err
	}
	return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
}
