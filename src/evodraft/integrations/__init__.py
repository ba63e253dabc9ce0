"""evodraft inside other projects' interfaces. Each module translates for one project; none of them decodes."""
