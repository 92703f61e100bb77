# The rules of the benchmark's policy, in Rego. What is looked up is indexed:
# agents by id, scopes by the path and action that they cover, so that no rule
# walks a list that grows with the policy.
package check

# A call that passes every check is judged by one body, which is cheaper than a
# rule for each check. For a denied one the first check that fails gives the
# reason, in the order of Kelpie's checks.
reason := "ok" if {
	agent := data.agents[input.agent]
	some name in agent.networks
	some cidr in data.networks[name]
	net.cidr_contains(cidr, input.source)
	count(input.path) > 2
	action := data.routes[input.method]
	not data.denied_actions[action]
	some scope in data.scopes[input.path[0]][input.path[1]][action]
	agent.scopes[scope]
} else := "agent_unknown" if {
	not data.agents[input.agent]
} else := "ip_not_allowed" if {
	not admitted
} else := "no_matching_scope" if {
	not action
} else := "action_denied" if {
	data.denied_actions[action]
} else := "no_matching_scope" if {
	not data.scopes[input.path[0]][input.path[1]][action]
} else := "insufficient_scope"

# What no route is about has no action.
action := data.routes[input.method] if count(input.path) > 2

admitted if {
	some name in data.agents[input.agent].networks
	some cidr in data.networks[name]
	net.cidr_contains(cidr, input.source)
}
