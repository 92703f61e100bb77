package redislimiter

// Leave ends the heartbeat of a Limiter, so that only what a test does goes to
// Redis. Call it before anything else.
func Leave(l *Limiter) {
	l.members.close()
	l.members = nil
}

// Waiting is how many jobs wait for a server.
func (l *Limiter) Waiting() int {
	var links []*link
	if l.nodes == nil {
		links = append(links, l.only)
	} else {
		l.nodes.mu.RLock()
		for _, k := range l.nodes.links {
			links = append(links, k)
		}
		l.nodes.mu.RUnlock()
	}
	n := 0
	for _, k := range links {
		k.lane.mu.Lock()
		n += len(k.lane.queue)
		k.lane.mu.Unlock()
	}
	return n
}
