# Renders a job as BOSH does: ruby render.rb JOB_DIRECTORY CONTEXT.json OUTPUT_DIRECTORY
#
# Writes every template of the job's spec, and monit, with the modes that the BOSH agent gives. The context holds
# "properties", "links", "spec", and "create_env": true to render as `bosh create-env` did before it knew links.
# A template that fails: exit code 1 and one line on standard error.
require 'erb'
require 'fileutils'
require 'json'
require 'ostruct'
require 'yaml'

class UnknownProperty < StandardError
  def initialize(names)
    super("Can't find property '#{names.join("', or '")}'")
  end
end

# What if_p and if_link return: `else` runs, or is passed over.
class Otherwise
  def initialize(context, active)
    @context = context
    @active = active
  end

  def else
    yield if @active
  end

  def else_if_p(*names, &block)
    @active ? @context.if_p(*names, &block) : self
  end

  def else_if_link(name, &block)
    @active ? @context.if_link(name, &block) : self
  end
end

# p and if_p of templates and links.
module Properties
  def p(names, *default)
    names = Array(names)
    names.each do |name|
      value = lookup(name)
      return value unless value.nil?
    end
    raise UnknownProperty.new(names) if default.empty?

    default.first
  end

  def if_p(*names)
    values = names.map { |name| lookup(name) }
    return Otherwise.new(self, true) if values.any?(&:nil?)

    yield(*values)
    Otherwise.new(self, false)
  end

  private

  def lookup(name)
    name.split('.').reduce(@raw_properties) { |value, key| value.nil? ? nil : value[key] }
  end
end

def open_struct(value)
  case value
  when Hash then OpenStruct.new(value.transform_values { |inner| open_struct(inner) })
  when Array then value.map { |inner| open_struct(inner) }
  else value
  end
end

# One instance behind a link.
class LinkInstance
  include Properties
  attr_reader :name, :index, :id, :az, :address, :bootstrap, :properties

  def initialize(instance)
    @name, @index, @id, @az, @address, @bootstrap =
      instance.values_at('name', 'index', 'id', 'az', 'address', 'bootstrap')
    @raw_properties = instance['properties'] || {}
    @properties = open_struct(@raw_properties)
  end
end

# What link and if_link give.
class Link
  include Properties
  attr_reader :address, :instances, :properties

  def initialize(link)
    @address = link['address']
    @instances = (link['instances'] || []).map { |instance| LinkInstance.new(instance) }
    @raw_properties = link['properties'] || {}
    @properties = open_struct(@raw_properties)
  end
end

# What a template sees.
class Context
  include Properties
  attr_reader :name, :index, :properties, :raw_properties, :spec

  def initialize(job_spec, context)
    given = context.fetch('properties', {})
    # Properties that the spec does not name never reach a template.
    @raw_properties = {}
    job_spec.fetch('properties', {}).each { |name, definition| copy(name, given, definition['default']) }
    @properties = open_struct(@raw_properties)
    @spec = open_struct(context.fetch('spec', {}))
    @name = @spec.name
    @index = @spec.index
    @links = context.fetch('links', {})
  end

  def link(name)
    Link.new(@links.fetch(name) { raise "Can't find link '#{name}'" })
  end

  def if_link(name)
    return Otherwise.new(self, true) unless @links.key?(name)

    yield link(name)
    Otherwise.new(self, false)
  end

  def binding_of_template
    binding
  end

  private

  def copy(name, given, default)
    *path, last = name.split('.')
    value = name.split('.').reduce(given) { |hash, key| hash.is_a?(Hash) ? hash[key] : nil }
    target = path.reduce(@raw_properties) { |hash, key| hash[key] ||= {} }
    target[last] = value.nil? ? default : value
  end
end

# The create-env of older BOSH CLIs.
class CreateEnvContext < Context
  undef_method :link

  def if_link(_name)
    false
  end
end

job, context_file, output = ARGV
abort 'usage: render.rb JOB_DIRECTORY CONTEXT.json OUTPUT_DIRECTORY' unless output
job_spec = YAML.safe_load(File.read("#{job}/spec", encoding: 'UTF-8'))
given = JSON.parse(File.read(context_file, encoding: 'UTF-8'))
context_class = given['create_env'] ? CreateEnvContext : Context

templates = job_spec.fetch('templates').map { |source, target| ["templates/#{source}", target] }
(templates << %w[monit monit]).each do |source, target|
  # Each template has a context of its own, as in BOSH: what one changes, no other sees.
  context = context_class.new(job_spec, given)
  erb = ERB.new(File.read("#{job}/#{source}", encoding: 'UTF-8'), trim_mode: '-')
  erb.filename = source
  begin
    text = erb.result(context.binding_of_template)
  rescue StandardError, ScriptError => e
    abort "#{source}: #{e.message}"
  end
  file = "#{output}/#{target}"
  FileUtils.mkdir_p(File.dirname(file))
  File.write(file, text)
  File.chmod(target.start_with?('bin/') ? 0o750 : 0o640, file)
end
