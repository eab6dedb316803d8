"""What watches the stack: Prometheus' configuration and rules, Grafana's dashboards, an exporter of processes."""
