package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Resolver looks the addresses of a name up.
type Resolver func(ctx context.Context, host string) ([]netip.Addr, error)

// dialer connects to a host whose every address it has checked, by one of those
// addresses: the name is looked up once, so that it cannot lead elsewhere between
// the check and the call.
type dialer struct {
	resolve  Resolver
	loopback bool
	net      net.Dialer
}

// dial implements http.Transport.DialContext. TLS and the Host header go by the
// URL's name all the same.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.New("the URL has no valid host and port")
	}
	addrs, err := d.lookUp(ctx, host)
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		addrs[i] = addr.Unmap()
		if why := d.refusal(addrs[i]); why != "" {
			return nil, fmt.Errorf("the endpoint's name leads to %s, which is %s: it is not called", addrs[i], why)
		}
	}
	for _, addr := range addrs {
		conn, dialErr := d.net.DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
		if dialErr == nil {
			return conn, nil
		}
		err = errors.Join(err, dialErr)
	}
	return nil, err
}

func (d *dialer) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	resolve := d.resolve
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look the endpoint's name up: %w", err)
	}
	if len(addrs) == 0 {
		return nil, errors.New("the endpoint's name has no address")
	}
	return addrs, nil
}

// refusal says why an address is not called; "" if it is.
func (d *dialer) refusal(addr netip.Addr) string {
	if addr.IsLoopback() && d.loopback {
		return ""
	}
	return Inner(addr)
}

// Inner says what keeps an address from being one of the public Internet; "" if
// nothing does. An IPv4 address in IPv6 form is judged as what it is.
func Inner(addr netip.Addr) string {
	addr = addr.Unmap()
	switch {
	case !addr.IsValid():
		return "no address"
	case addr.Zone() != "":
		return "of one link"
	}
	for _, r := range reserved {
		if r.prefix.Contains(addr) {
			return r.what
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return "no global unicast address"
	}
	return ""
}

// globalUnicast is all that IANA gives to networks of the Internet in IPv6; what
// is outside of it is loopback, link-local, unique local, multicast, or translates
// to IPv4 (64:ff9b::/96, which is NAT64).
//
//nolint:gochecknoglobals // A constant; Go has no constant structs.
var globalUnicast = netip.MustParsePrefix("2000::/3")

// reserved are the blocks of the IANA special-purpose registries (RFC 6890) that
// are not the Internet, and those that lead to other addresses.
//
//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var reserved = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "of a carrier's NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.31.196.0/24"), "reserved"},
	{netip.MustParsePrefix("192.52.193.0/24"), "reserved"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a relay to IPv6"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("192.175.48.0/24"), "reserved"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("64:ff9b::/96"), "a translation to IPv4"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a translation to IPv4"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("2001::/23"), "a tunnel, or reserved"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "a tunnel to IPv4"},
	{netip.MustParsePrefix("2620:4f:8000::/48"), "reserved"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
}
