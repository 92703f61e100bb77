package testkit

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// CutProxy stands between a client and a Redis and breaks what is told to. It
// understands RESP, without TLS, as far as to know which reply answers which
// command. Its methods are for any goroutine, those with a testing.TB for the
// test's.
//
// Before a node of a cluster it needs [RedisCluster.Announce], since clients
// learn the addresses of nodes from the nodes.
type CutProxy struct {
	// Addr is where clients connect to, host:port of 127.0.0.1.
	Addr string

	target string

	mu       sync.Mutex
	listener net.Listener // nil while it refuses
	conns    map[net.Conn]struct{}
	toCut    int
	names    []string      // of the commands to cut; none: all but those of setUp
	held     chan struct{} // closed by Release; nil: nothing is held
	cuts     int
	commands int
	pending  int // commands whose replies were not read
	running  sync.WaitGroup
}

// StartCutProxy starts a proxy on a free port of 127.0.0.1 that hands everything
// on to target, until told otherwise. It ends with the test.
func StartCutProxy(tb testing.TB, target string) *CutProxy {
	tb.Helper()
	p := &CutProxy{Addr: FreeAddr(tb), target: target, conns: map[net.Conn]struct{}{}}
	p.Admit(tb)
	tb.Cleanup(func() {
		p.Release()
		p.Refuse()
		p.Drop()
		p.running.Wait()
	})
	return p
}

// Cut makes it hand the next n commands of these names on to Redis, and close
// the client's connection when Redis has answered, instead of passing the reply
// on. Of what the client has sent behind such a command all reaches Redis too.
// Without names it is about every command but those that set a connection up.
func (p *CutProxy) Cut(n int, names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toCut, p.names = n, names
}

// CutNext is Cut of the next command, whatever it is.
func (p *CutProxy) CutNext() { p.Cut(1) }

// Cuts is how many connections were cut.
func (p *CutProxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Commands is how many commands went to Redis.
func (p *CutProxy) Commands() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commands
}

// Settle waits until Redis has answered everything that went to it, so that no
// command of a connection that was cut is still to be run.
func (p *CutProxy) Settle(tb testing.TB) {
	tb.Helper()
	Eventually(tb, "answers to all commands that passed the proxy", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.pending == 0
	})
}

// Hold keeps replies back until Release; commands still reach Redis.
func (p *CutProxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Release lets the replies go that Hold kept back, and those to come.
func (p *CutProxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Refuse refuses new connections, as a machine on which nothing listens would.
// Those that there are stay; see Drop.
func (p *CutProxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
}

// Admit ends Refuse.
func (p *CutProxy) Admit(tb testing.TB) {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return
	}
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", p.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	p.listener = lis
	p.running.Go(func() { p.accept(lis) })
}

// Drop closes all connections that there are.
func (p *CutProxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *CutProxy) accept(lis net.Listener) {
	for {
		client, err := lis.Accept()
		if err != nil {
			return // It was closed.
		}
		server, err := net.Dial("tcp", p.target) //nolint:noctx // It is on this machine, and the proxy has no context.
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { p.serve(client, server) })
	}
}

// flight is a command that went to Redis and was not answered yet.
type flight struct{ cut bool }

func (p *CutProxy) serve(client, server net.Conn) {
	// Buffered by far more than a client sends at once: a command must never
	// wait for the reply to one before it.
	flights := make(chan flight, 1<<16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.backward(client, server, flights)
	}()
	p.forward(client, server, flights)
	close(flights)
	// What was sent is to be run even if the client has gone.
	if half, ok := server.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	<-done
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
	client.Close()
	server.Close()
}

// forward hands commands on until the client has closed its side.
func (p *CutProxy) forward(client, server net.Conn, flights chan<- flight) {
	in := bufio.NewReaderSize(client, 64<<10)
	for {
		raw, err := readRESP(in, nil)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.commands++
		p.pending++
		cut := p.toCut > 0 && p.named(commandName(raw))
		if cut {
			p.toCut--
		}
		p.mu.Unlock()
		flights <- flight{cut: cut}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// setUp are commands that clients send of themselves.
const setUp = " hello auth select client command cluster readonly ping info asking sentinel "

// named reports whether a command is one to cut; p.mu is held.
func (p *CutProxy) named(command string) bool {
	for _, name := range p.names {
		if strings.EqualFold(name, command) {
			return true
		}
	}
	return len(p.names) == 0 && !strings.Contains(setUp, " "+strings.ToLower(command)+" ")
}

// backward hands replies on, and after a cut only reads them.
func (p *CutProxy) backward(client, server net.Conn, flights <-chan flight) {
	in := bufio.NewReaderSize(server, 64<<10)
	gone := false
	for f := range flights {
		raw, err := readRESP(in, nil)
		p.mu.Lock()
		p.pending--
		held := p.held
		if f.cut && err == nil {
			p.cuts++
		}
		p.mu.Unlock()
		if err != nil {
			client.Close() // It ends forward too.
			for range flights {
				p.mu.Lock()
				p.pending--
				p.mu.Unlock()
			}
			return
		}
		switch {
		case gone:
		case f.cut:
			// The client reads the end of the connection; what it has sent is still read here.
			gone = true
			closeWrite(client)
		default:
			if held != nil {
				<-held
			}
			_, err := client.Write(raw)
			gone = err != nil
		}
	}
}

func closeWrite(c net.Conn) {
	if half, ok := c.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

var errRESP = errors.New("not RESP")

// readRESP appends one value of RESP 2 or 3 to raw, as it stands.
func readRESP(in *bufio.Reader, raw []byte) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return raw, err
	}
	if len(line) < 3 {
		return raw, errRESP
	}
	kind := line[0]
	text := string(line[1 : len(line)-2])
	raw = append(raw, line...)
	switch kind {
	case '+', '-', ':', '_', ',', '#', '(':
		return raw, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return raw, errRESP
	}
	switch kind {
	case '$', '!', '=':
		if n < 0 {
			return raw, nil
		}
		at := len(raw)
		raw = append(raw, make([]byte, n+2)...)
		_, err := io.ReadFull(in, raw[at:])
		return raw, err
	case '*', '~', '>':
	case '%':
		n *= 2
	default:
		return raw, errRESP
	}
	for range n {
		if raw, err = readRESP(in, raw); err != nil {
			return raw, err
		}
	}
	return raw, nil
}

// commandName is the first argument of a command.
func commandName(raw []byte) string {
	fields := strings.SplitN(string(raw[:min(len(raw), 64)]), "\r\n", 4)
	if len(fields) < 3 {
		return ""
	}
	return fields[2]
}
