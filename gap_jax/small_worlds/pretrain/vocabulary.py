"""The words that the tokenizers of both small worlds know: about rooms, about animals, and for prompts."""

VOCABULARY = """
a an the of in on at with and or no by to from near large small old new very room rooms house floor wall
walls ceiling window windows door box boxes ball sphere table chair corridor kitchen bedroom office indoor
outdoor interior scene view image picture photo photograph camera trap highly detailed photorealistic
realistic sharp grey gray beige red green blue yellow orange purple pink brown black white colour color
colourful plain striped stripes checkered checks texture textured pattern wood metal glass stone bright dim
dark light lights lamp sun shadow shadows clear hazy haze foggy fog thick smoke snow snowy rain rainy storm
night day evening morning dusk comic cartoon synthetic rendered animated painting sketch drawing saturated
person people humans face body parts eyes blurry blur noise noisy nature land water lake ocean river sea
beach forest bamboo grass grassy field trees tree bushes sky dirt trail twigs branches bird birds landbird
waterbird animal animals cattle elephant elephants impala impalas zebra zebras giraffe giraffes dik
background standing walking flying middle
"""
